"""`closeranks completion bash|zsh`: prints a script that completes commands, verbs and options.

Written from the parsers themselves, so it can not fall behind them. zsh runs the same script through
its own bashcompinit. Names of nodes and volumes are not completed: that would ask the coordinator at
every key press.
"""

from __future__ import annotations

import argparse

from .screen import Screen
from .session import OK

_BASH = """\
_closeranks() {{
    local word="${{COMP_WORDS[COMP_CWORD]}}" path="" part words
    for part in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
        case "$path $part" in
{steps}
        esac
    done
    case "$path" in
{cases}
    esac
    COMPREPLY=($(compgen -W "$words" -- "$word"))
    if [[ ${{#COMPREPLY[@]}} -eq 0 && $word != -* ]]; then COMPREPLY=($(compgen -f -- "$word")); fi
}}
complete -o filenames -F _closeranks closeranks
"""


def add_completion(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Print a completion script. In bash: source <(closeranks completion bash); likewise in zsh."
    )
    parser.add_argument("shell", choices=("bash", "zsh"))
    parser.set_defaults(run=completion)


def completion(args: argparse.Namespace, screen: Screen) -> int:
    from .main import build_parser

    script = bash_script(build_parser((), complete=True))
    if args.shell == "zsh":
        script = "autoload -U +X bashcompinit && bashcompinit\n" + script
    screen.out.write(script)
    return OK


def bash_script(program: argparse.ArgumentParser) -> str:
    """One case for each command path, with its options and verbs as words."""
    words = dict(_paths(program, ""))
    steps = [f'            "{path}") path="{path}" ;;' for path in words if path]
    cases = [f'        "{path}") words="{" ".join(found)}" ;;' for path, found in words.items()]
    return _BASH.format(steps="\n".join(steps), cases="\n".join(cases))


def _paths(parser: argparse.ArgumentParser, path: str) -> list[tuple[str, list[str]]]:
    words: list[str] = []
    below: list[tuple[str, list[str]]] = []
    for action in parser._actions:
        words += [option for option in action.option_strings if option.startswith("--")]
        if isinstance(action, argparse._SubParsersAction):
            for name, command in action.choices.items():
                words.append(name)
                below += _paths(command, f"{path} {name}")
        elif not action.option_strings and action.choices:
            words += [str(choice) for choice in action.choices]
    return [(path, words), *below]
