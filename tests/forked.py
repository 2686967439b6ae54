"""Programs that each need a process of their own, as forks of one that has imported what takes seconds to import."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

_PARENT = """
import json, os, runpy, sys, traceback
{imports}
done = {{}}
for path in sys.argv[1:]:
    log = path + ".log"
    child = os.fork()
    if not child:
        code = 1
        try:
            said = os.open(log, os.O_CREAT | os.O_WRONLY)
            os.dup2(said, 1)
            os.dup2(said, 2)
            sys.argv[:] = [path]
            os.chdir(os.path.dirname(path))
            runpy.run_path(path, run_name="__main__")
            code = 0
        except SystemExit as error:
            code = error.code or 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code if isinstance(code, int) else 1)
    done[path] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
print(json.dumps(done))
"""


class Done(NamedTuple):
    """How a program ended, and what it wrote to stdout and stderr."""

    returncode: int
    output: str


def forked(imports: str, programs: Mapping[str, str], folder: Path, paths: Sequence[Path]) -> dict[str, Done]:
    """Run Python programs, each in a fork and a folder of its own.

    imports: code that the process runs first, which they share. programs: source by name. paths: for imports.
    """
    files = {}
    for name, source in programs.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        files[name] = folder / name / "program.py"
        files[name].write_text(source)
    parent = [sys.executable, "-W", "ignore", "-c", _PARENT.format(imports=imports), *map(str, files.values())]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths)), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(parent, capture_output=True, text=True, env=environment, check=False)
    assert ended.returncode == 0, ended.stderr
    codes = json.loads(ended.stdout.splitlines()[-1])
    return {name: Done(codes[str(file)], Path(f"{file}.log").read_text()) for name, file in files.items()}
