"""Runs the tests of kernels, precisions, engine and company as on other processors: `python tests/processors.py`."""

import os
import subprocess
import sys
import time

SETTINGS: tuple[dict[str, str], ...] = (
    {},
    {"ONEDNN_MAX_CPU_ISA": "AVX2"},
    {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"},
    {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"},
    {"ATEN_CPU_CAPABILITY": "avx2"},
)
TESTS = ("tests/accel/test_cpu_mode.py", "tests/accel/test_half_backward.py", "tests/models/test_processor.py")
TESTS += ("tests/engine", "tests/load/test_company.py", "tests/load/test_start.py")


def main(arguments: list[str]) -> int:
    """Each setting in a process of its own, as oneDNN reads it once; a line for each at the end."""
    lines, failed = [], False
    for setting in SETTINGS:
        name = " ".join(f"{key}={value}" for key, value in setting.items()) or "as it is"
        print(f"\n== processor {name}", flush=True)
        begun = time.monotonic()
        environment = {key: value for key, value in os.environ.items() if not any(key in each for each in SETTINGS)}
        command = [sys.executable, "-m", "pytest", "-q", "-rf", *(arguments or TESTS)]
        run = subprocess.run(command, env=environment | setting, stdout=subprocess.PIPE, text=True, check=False)
        print(run.stdout, end="", flush=True)
        summary = run.stdout.strip().rpartition("\n")[2].strip("= ")
        lines.append(f"{'FAILED' if run.returncode else 'passed'}  {name}: {summary}; {time.monotonic() - begun:.0f} s")
        failed |= run.returncode != 0
    print("\n" + "\n".join(lines), flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
