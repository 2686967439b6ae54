"""``mcuprune completion``: what a shell needs to complete commands, flags and their values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Literal

from mcuprune import options
from mcuprune.cli.outputs import show
from mcuprune.cli.parser import command
from mcuprune.console import YES
from mcuprune.immutable import immutable
from mcuprune.options import Option, option


@immutable(kw_only=True)
class Flags:
    """Options of ``completion``."""

    shell: Literal["bash", "zsh", "fish"] = option("bash", help="For which shell.", group="Output")


@command(Flags)
def completion(flags: Flags) -> int:
    """A script that completes commands and flags: source <(mcuprune completion)."""
    show(SHELLS[flags.shell](_words()))
    return YES


def _words() -> Mapping[str, Sequence[Option]]:
    """The options of each command."""
    from mcuprune.cli import COMMANDS

    words = {}
    for name in COMMANDS:
        classes: Sequence[type] = getattr(import_module(f"mcuprune.cli.{name}"), name).reads
        words[name] = [option for kind in classes for option in options.each(kind) if not option.positional]
    return words


def _flags(every: Sequence[Option]) -> list[str]:
    return sorted({flag for option in every for spelling in option.spellings for flag in spelling.split("/")} | {"--help"})


def _choices(commands: Mapping[str, Sequence[Option]]) -> dict[str, list[str]]:
    """Flag -> its values, where they are known."""
    return {option.flag: [*map(str, option.choices)] for every in commands.values() for option in every if option.choices}


def _bash(commands: Mapping[str, Sequence[Option]]) -> str:
    lines = ["_mcuprune() {", '  local word="${COMP_WORDS[COMP_CWORD]}" before="${COMP_WORDS[COMP_CWORD-1]}"']
    first = " ".join([*commands, "--version", "--help"])
    lines += ["  if [[ $COMP_CWORD -eq 1 ]]; then", f'    COMPREPLY=($(compgen -W "{first}" -- "$word"))']
    lines += ["    return", "  fi", '  case "$before" in']
    lines += [
        f'    {flag}) COMPREPLY=($(compgen -W "{" ".join(values)}" -- "$word")); return ;;'
        for flag, values in sorted(_choices(commands).items())
    ]
    lines += ["  esac", '  if [[ "$word" == -* ]]; then', '    case "${COMP_WORDS[1]}" in']
    lines += [
        f'      {name}) COMPREPLY=($(compgen -W "{" ".join(_flags(every))}" -- "$word")) ;;' for name, every in commands.items()
    ]
    return "\n".join([*lines, "    esac", "    return", "  fi", "}", "complete -o default -F _mcuprune mcuprune", ""])


def _zsh(commands: Mapping[str, Sequence[Option]]) -> str:
    return f"autoload -U +X bashcompinit && bashcompinit\n{_bash(commands)}"


def _fish(commands: Mapping[str, Sequence[Option]]) -> str:
    lines = [f"complete -c mcuprune -n __fish_use_subcommand -f -a {name}" for name in commands]
    for name, every in commands.items():
        for entry in every:
            values = f" -xa '{' '.join(map(str, entry.choices))}'" if entry.choices else "" if entry.kind is bool else " -r"
            said = entry.help.replace("\\", "").replace("'", "\\'")
            for spelling in entry.spellings:
                for flag in spelling.split("/"):
                    dash = f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}"
                    lines.append(f"complete -c mcuprune -n '__fish_seen_subcommand_from {name}' {dash}{values} -d '{said}'")
    return "\n".join([*lines, ""])


#: How each shell is told.
SHELLS = {"bash": _bash, "zsh": _zsh, "fish": _fish}
