import subprocess
import sys

import gradserve


def test_all_is_sorted_and_there():
    assert gradserve.__all__ == sorted(gradserve.__all__)
    assert all(getattr(gradserve, name) for name in gradserve.__all__)


def test_nothing_else_is_public():
    public = {name for name, value in vars(gradserve).items() if not name.startswith("_") and isinstance(value, type)}
    assert public == set(gradserve.__all__)


def test_version():
    assert gradserve.__version__


def test_importing_the_client_loads_neither_torch_nor_the_command_line():
    code = "import sys, gradserve; print(*sorted({'torch', 'typer', 'rich', 'gradserve_server'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
