"""What `import palate` and `palate --help` cost, and that every public name is there."""

import resource
import subprocess
import sys

import palate


def test_public_names_are_sorted_and_resolve():
    names = [name for name in palate.__all__ if name != "__version__"]
    assert names == sorted(names)
    assert all(getattr(palate, name) is not None for name in palate.__all__)
    assert set(names) <= set(dir(palate))


def test_importing_the_package_loads_nothing_heavy():
    heavy = "('torch', 'transformers', 'pydantic')"
    code = f"import sys, palate, palate.cli.main; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_help_comes_at_once():
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-m", "palate.cli.main", "--help"], capture_output=True, text=True, check=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    for command in ("demo", "run", "verify", "generate", "report", "data", "testbed"):
        assert command in done.stdout
    # Processor time, which a busy machine does not stretch.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.3
