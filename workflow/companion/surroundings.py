"""What of the user and the machine reaches a chapter: the caches and the hardware, and no personal settings."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from companion import BUILD, ROOT

HOMES = ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME")
PERSONAL = ("IPYTHON", "JUPYTER", "MATPLOTLIB", "MPL", "PYTHON")  # how names of variables with such settings begin
NOT_PERSONAL = (
    "PYTHONDONTWRITEBYTECODE",
    "PYTHONHOME",
    "PYTHONNOUSERSITE",
    "PYTHONPYCACHEPREFIX",
    "PYTHONUNBUFFERED",
    "PYTHONUSERBASE",
)


def start_anew() -> None:
    """Replace this process by one in which Python itself has none of the user's settings, where there are some."""
    found = [name for name in _personal() if name.startswith("PYTHON") and name != "PYTHONPATH"]  # where this code is
    if found:
        kept = {name: value for name, value in os.environ.items() if name not in found}
        command = [sys.executable, "-m", "companion", *sys.argv[1:]]
        if sys.platform == "win32":  # whose execve does not wait for the end
            sys.exit(subprocess.run(command, env=kept).returncode)
        os.execve(sys.executable, command, kept)  # noqa: S606


def _personal() -> list[str]:
    return [name for name in os.environ if name.startswith(PERSONAL) and name not in NOT_PERSONAL]


def use_folders() -> None:
    """Let folders of the build stand in for home, caches and temporary files that cannot be written, and say so."""
    for name in HOMES:
        named = os.environ.get(name)
        if named is not None or name == "HOME":
            folder = Path(named or os.path.expanduser("~"))  # noqa: PTH111 (which fails where there is no home at all)
            if not _is_writable(folder, may_make=name != "HOME"):
                _stand_in(name, folder, "home")
    folder = Path(os.environ.get("TMPDIR", tempfile.gettempdir()))
    if not _is_writable(folder, may_make=False):
        _stand_in("TMPDIR", folder, "temporary")
        tempfile.tempdir = None  # to be looked up again


def _stand_in(name: str, folder: Path, own: str) -> None:
    instead = BUILD / own
    instead.mkdir(parents=True, exist_ok=True)
    told = f"{name} is {str(folder)!r}, which cannot be written or is full; {os.path.relpath(instead)} is used instead"
    print(told, file=sys.stderr)
    os.environ[name] = str(instead)


def _is_writable(folder: Path, may_make: bool) -> bool:
    try:
        if may_make:
            folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(2**20))
        return True
    except OSError:
        return False


def leave_personal_settings(folder: Path) -> None:
    """From now on, no kernel takes settings of the user for Python, IPython, Jupyter or matplotlib.

    In the folder, IPython and Jupyter write what nobody reads afterwards.
    """
    for name in _personal():
        del os.environ[name]  # such as PYTHONOPTIMIZE, which would switch off assertions
    os.environ |= {
        "IPYTHONDIR": str(folder),
        "JUPYTER_NO_CONFIG": "1",
        "JUPYTER_PREFER_ENV_PATH": "1",  # the kernel of this environment, not of the user
        "JUPYTER_RUNTIME_DIR": str(folder),
        "MPLCONFIGDIR": str(BUILD / "matplotlib"),  # stays: the list of fonts takes seconds to make
        "PYTHONPATH": str(ROOT),
        "PYTHONWARNINGS": "ignore:IProgress not found",  # bars as text are what is wanted here
    }
