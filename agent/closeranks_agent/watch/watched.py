"""Which watch descriptor stands for which directory: a tree, so that a moved directory takes its subtree along.

Moving a directory changes one link, whatever lies below it; keys are made by climbing. Pure: what the kernel must
be told is returned. About 220 bytes a directory, 11 MB for 50,000; the kernel takes some 1 KB for each besides.
Rejected: keys by watch (a renamed directory would rewrite those of its whole subtree).
"""

from __future__ import annotations

from .polled import Polled


class Confused(Exception):
    """A directory was found below itself: the tree changed in a way that the events do not explain."""


class Node:
    """One watched directory. The root has no parent, nor has one that was moved away and not seen again.

    `listed`: its subdirectories were looked for after it was watched. Until then it is as good as new wherever it goes.
    `polled`: what lies in it, where it is compared and has no watch; `watch` is the one that it had, and stays its own.
    """

    __slots__ = ("children", "listed", "name", "parent", "polled", "watch")

    def __init__(self, watch: int, parent: Node | None, name: bytes) -> None:
        self.watch = watch
        self.parent = parent
        self.name = name
        self.children: dict[bytes, Node] | None = None
        self.listed = False
        self.polled: Polled | None = None


class Watched:
    """All watched directories of a volume below `root`."""

    def __init__(self, root_watch: int) -> None:
        self.root = Node(root_watch, None, b"")
        self._nodes = {root_watch: self.root}

    def __len__(self) -> int:
        return len(self._nodes)

    def get(self, watch: int) -> Node | None:
        return self._nodes.get(watch)

    def key(self, node: Node) -> bytes | None:
        """The key of a directory; None for one that is not below the root at present."""
        names: list[bytes] = []
        while node.parent is not None:
            names.append(node.name)
            node = node.parent
        if node is not self.root:
            return None
        names.reverse()
        return b"\0".join(names)

    def child(self, parent: Node, name: bytes) -> Node | None:
        return parent.children.get(name) if parent.children else None

    def children(self, parent: Node) -> list[Node]:
        return list(parent.children.values()) if parent.children else []

    def find(self, key: bytes) -> Node | None:
        """The node of exactly this key."""
        node: Node | None = self.root
        for name in key.split(b"\0") if key else ():
            node = self.child(node, name) if node is not None else None
        return node

    def attach(self, parent: Node, name: bytes, watch: int) -> tuple[Node, bool, list[int]]:
        """`watch` is the directory `name` in `parent` now: (its node, whether it is new, the watches displaced).

        Raises Confused where the parent lies below it.
        """
        node = self._nodes.get(watch)
        if node is not None and node.parent is parent and node.name == name:
            return node, False, []
        above: Node | None = parent
        while above is not None:
            if above is node:
                raise Confused
            above = above.parent
        displaced = self.child(parent, name)
        dropped = self.drop(displaced) if displaced is not None else []
        new = node is None or watch not in self._nodes  # it may have been below what it displaces
        if node is None or new:
            node = Node(watch, parent, name)
            self._nodes[watch] = node
        else:
            self.detach(node)
            node.parent, node.name = parent, name
        if parent.children is None:
            parent.children = {}
        parent.children[name] = node
        return node, new, dropped

    def renew(self, node: Node, watch: int) -> None:
        """The directory has another watch."""
        del self._nodes[node.watch]
        node.watch, node.polled = watch, None
        self._nodes[watch] = node

    def owe(self, node: Node) -> None:
        """A directory and all that is known below it are to be listed once more."""
        stack = [node]
        while stack:
            one = stack.pop()
            one.listed = False
            stack.extend(self.children(one))

    def detach(self, node: Node) -> None:
        """Take a directory out of its parent, with everything below it, and keep it."""
        parent = node.parent
        if parent is not None and parent.children is not None:
            if parent.children.get(node.name) is node:
                del parent.children[node.name]
            if not parent.children:
                parent.children = None
        node.parent = None

    def drop(self, node: Node) -> list[int]:
        """Forget a directory and everything below it: the watches that stood for them."""
        self.detach(node)
        dropped: list[int] = []
        stack = [node]
        while stack:
            one = stack.pop()
            dropped.append(one.watch)
            self._nodes.pop(one.watch, None)
            if one.children:
                stack.extend(one.children.values())
            one.children = None
            one.parent = None
        return dropped
