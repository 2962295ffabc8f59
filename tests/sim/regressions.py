"""Seeds that once broke something, and what. A seed's world changes when the simulator does: what a seed found has a
test of its own beside the module that was wrong, and stays here for what it may find next.
"""

from __future__ import annotations

FOUND: dict[int, str] = {
    18: "the only writer was fenced when other settings asked for a new truth: none without it, no release without one",
    35: "a writer waited behind its fence for contents that only another fenced node had; nobody could release either",
    51: "whoever had the contents was on its way to the truth itself, so it was no source: all waited for each other",
    55: "a held node was accused on the word of fewer than a quorum, while most were away",
    57: "as 51, with two of three fenced after a reject",
    75: "a path was deleted twice: a node that followed the site's steps from the first time on was accused",
    103: "a rebuilt writer, torn files and rogues at once: only a new founding helps, and it does",
    281584052: "the wall clock jumped an hour: what the truth had been was forgotten, and who was late was accused",
    411125896: "a node caught up with a truth that just went back, in a fleet that is gathered: accused",
    411125925: "the oracle took two steps of the truth at one moment for one, and a real regression for lag",
    281584053: "two joined, one was fenced, and nobody had the contents of the truth: people found it anew",
}
# The same, played with another policy and number of nodes than the seed would choose: (seed, policy, nodes).
FOUND_WITH: dict[tuple[int, str, int], str] = {
    (669668888, "writers", 3): (
        "the truth came to what a silent node had and went on within the second in which it is not looked at: accused"
    ),
    (572286858, "quorum", 16): (
        "the model of a session that had ended told an old root when its disk was free again; the real one is cancelled"
    ),
    (572286981, "writers", 16): (
        "the oracle took a rogue's older file for lag: the node had been brought on, but not to the newest truth"
    ),
    (572287089, "quorum", 16): "as 572286981, with a power loss that undid what the site had removed",
    (1157787864, "writers", 16): "as 572286981, with a rogue that removed what a push had brought",
    (1157788072, "writers", 3): (
        "the oracle took the old truth for a new one: that it was to be founded anew was not durable before a crash"
    ),
    (1890000247, "quorum", 16): (
        "who joined while a path was undetermined was said to have held its truth there, and accused of its older one"
    ),
    (1890000387, "baseline", 3): (
        "the check held a fence against a smaller max_quarantined that the core had not been told of yet"
    ),
    (1890000948, "any-writer", 7): (
        "the oracle took two steps of the truth at one moment for one, and a lag since the second for a false one"
    ),
    (1890001029, "writers", 9): (
        "a path went, came and went again: who had missed all that and was no writer was accused of what had come"
    ),
    (2064844947, "any-writer", 5): (
        "the check held lag against a root that had come, but was not judged yet: in a large fleet that is gathered"
    ),
    (1891707414, "any-writer", 7): (
        "a second machine dialled with a node's name: the node was taken for a rebuilt one, and its changes set aside"
    ),
    (930000320, "any-writer", 16): (
        "as 1891707414; and the oracle took what a node wrote before it had joined for accepted"
    ),
    (3036, "quorum", 5): (
        "a path that came to differ and to have a majority in one step left a clock behind: the next was named at once"
    ),
    (5011, "quorum", 5): (
        "a truth came back to what a node had held while it was elsewhere: come late to what was between, it was named"
    ),
    (941000652, "any-writer", 9): (
        "a node dialled again and was pushed, before it had told, what somebody had removed there since it came"
    ),
    (941001960, "quorum", 16): (
        "the model of a session dated proofs by when a full store let them go on; the real one goes by when they came"
    ),
    (941002988, "any-writer", 5): (
        "the model of an agent told of a file that could not be read, and of what lay below what had taken its place"
    ),
    (930000658, "writers", 16): (
        "a node that was stopped in the middle of a push went on with it: a file came back that all had left"
    ),
    (930001542, "quorum", 9): (
        "who joined while a path was undetermined waited behind its fence for a majority, and was released without it"
    ),
    (930001530, "any-writer", 16): (
        "the check took a dry run, asked for as its source was held in the same step, for one that fetches"
    ),
    (951000290, "any-writer", 9): (
        "with a directory that was a second version went what others had lost conflicts about within it"
    ),
    (930002115, "quorum", 16): (
        "the oracle held an accusation against a root that had come and was not judged yet, as 2064844947"
    ),
    (977000714, "baseline", 3): (
        "a person released a node whose new tree had come and was not judged yet, in a fleet that is gathered"
    ),
    (979000352, "quorum", 9): (
        "the check took a node that was still joining for one more that a change had spread to"
    ),
    (985000691, "any-writer", 5): (
        "the check held what was pushed before a person's request against the fence that came of it, in one step"
    ),
    (987000207, "quorum", 16): (
        "the check held a release against a root that came in its step, after all before it had been judged"
    ),
    (985001244, "any-writer", 7): (
        "two writers moved a directory to one place, and a third removed it before the second was heard: its own stays"
    ),
    (104075991, "any-writer", 16): (
        "a second version was gone when other settings had a new truth founded: its conflict was open for ever"
    ),
    (1207008307, "writers", 3): (
        "the check asked for the tree of a writer that a person released where there was no truth without it"
    ),
}
# The same, of worlds in which the faults of `swarm.LATER` may happen.
FOUND_LATER: dict[tuple[int, str, int], str] = {
    (988000456, "any-writer", 9): (
        "an agent said twice that its index was new, as nobody had told it that it was heard: its writes were set aside"
    ),
    (6051, "any-writer", 7): (
        "who had lost a conflict changed the mode of its own version: the second version left the truth, and all disks"
    ),
    (6141, "any-writer", 4): "as 6051",
    (942000564, "quorum", 3): (
        "the check held a dry run against what became undetermined in the step that asked for it"
    ),
    (942000889, "writers", 9): (
        "one step merged a removal and another's new file: the oracle took the two for one that had not known the old"
    ),
    (943000729, "any-writer", 3): (
        "the model of a scrub forgot what had decayed when it was killed before it had told: no scan sees that"
    ),
    (943000111, "quorum", 5): (
        "fences came along to a coordinator that had lost its state: too few were left to found, and none was released"
    ),
    (
        943000764,
        "any-writer",
        9,
    ): "the oracle took a second version of a second version for one of the first's writer",
    (942001060, "any-writer", 4): (
        "a writer went back to what it had held as its second version was dropped: the oracle took it for still there"
    ),
    (943001191, "writers", 3): (
        "a repair of a joining node went through the truth of when it was ordered: the check took it for what came back"
    ),
    (944000292, "baseline", 4): (
        "with other settings the truth began anew as what it was, in one step: the oracle missed it"
    ),
    (944001149, "any-writer", 3): (
        "a power cut took back what had been written over a decayed file: the check took it for a scrub's finding"
    ),
    (949000086, "any-writer", 9): (
        "what a guard held had decayed before anybody had it: the check asked for bytes that lay nowhere any more"
    ),
    (972000132, "quorum", 7): (
        "a person's release gave a path its majority and let another node go by itself: the check took both for theirs"
    ),
    (970000311, "quorum", 3): (
        "a node held what became the truth in the step in which its next root came: the oracle took it for only late"
    ),
    (949000274, "any-writer", 3): (
        "a writer's file had another mode and then decayed before anybody had heard of either: rot replaced good copies"
    ),
}
# The same with these faults alone: (seed, policy, nodes, faults).
FOUND_AMONG: dict[tuple[int, str, int, str], str] = {
    (11, "any-writer", 3, "coordinator_crash,crash,decay,power,store_full"): (
        "a change was the truth for a moment that no restart knew of, and decayed: the check asked for its bytes"
    ),
    (11, "any-writer", 3, "cut,decay,put_back"): (
        "somebody put files back to what had decayed before their image was made: the check took it for a scrub's"
    ),
    (
        962000035, "any-writer", 9,
        "clock,collect,coordinator_crash,crash,cut,eio,freeze,jitter,liar,many_rogues,partition,rogue,second_agent,"
        "slow_link,store_full",
    ): "what a push had brought was told anew to a coordinator that was started again: a removed file came back",
    (965000058, "writers", 5, "coordinator_lost,crash,freeze,jitter,liar,operator,partition,policy"): (
        "the model of an agent took the messages of one connection in another order where it had been stopped"
    ),
    (23, "any-writer", 5, "cut,decay,partition,put_back"): (
        "the check took rot that a person had put back, where the index was lost, for what nobody had written"
    ),
    (964000025, "any-writer", 3, "coordinator_crash,decay,enospc,put_back,second_agent"): (
        "a writer's file was renamed and then decayed before anybody had heard of either: rot replaced good copies"
    ),
    (973000112, "any-writer", 5, "crash,cut,decay,identity,operator,slow_disk"): (
        "what a held writer had moved decayed, and another one moved the original elsewhere: rot was its change"
    ),
    (973000213, "any-writer", 3, "coordinator_crash,crash,decay,enospc,freeze,mass,partition,power"): (
        "what was left of a change that had decayed was the truth, and decayed again: that was taken for a change, too"
    ),
    (974000179, "any-writer", 5, "decay,eio,partition,put_back,rot,second_agent,stale_site,store_full"): (
        "a person put a file back that was rot in their image, where there was none: the check took it for nobody's"
    ),
    (974000026, "any-writer", 3, "coordinator_lost,crash,decay,enospc,liar,slow_disk"): (
        "as 973000213, of what a truth was founded on"
    ),
    (973000131, "any-writer", 4, "coordinator_crash,cut,decay,store_full"): "as 973000112",
    (973000026, "any-writer", 3, "coordinator_lost,cut,power,put_back,rogue,rot,store_full"): (
        "a machine was put back as a whole, and the coordinator lost its state: the check knew of what nobody knew"
    ),
    (973000143, "any-writer", 3, "coordinator_lost,crash,partition,put_back,slow_disk,store_full,unmount"): (
        "as 973000026"
    ),
    (1103191977, "any-writer", 3, "cut,decay,partition,put_back"): (
        "a person let stand what the last writer had, of long ago: the check took it for what had come back"
    ),
    (3, "any-writer", 3, "absence"): (
        "a second version lay under its plain name alone when settings changed: it was taken for late, and was gone"
    ),
    (26, "any-writer", 3, "absence"): (
        "what a push had brought was told after the settings had changed: a removed file came back"
    ),
    (15, "writers", 9, "absence,cut,slow_disk,slow_link"): (
        "what an absent writer alone had of the old truth was late when it came back: it went to its trash"
    ),
}  # fmt: skip
# Of whole programs.
FOUND_BY_SHELLS: dict[int, str] = {
    11: "a peer left between its question and its answer, and the log told of a fault",
    118: "a repair took a long file back to what it held before, and the index forgot its chunk list on the way",
    136: "a disk that failed could not forget what was acknowledged, and all of it was announced anew",
    1728866409: "three of four voted and did not agree: a person decides, and the people here do so now",
    944500084: "a repair took a late writer's file away before its second version lay under its conflict name",
    944500047: "an agent left before its connection was taken, and the log told of a fault",
}
