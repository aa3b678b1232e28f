"""README quotes how far it is from the command to the optimizer's step; the script in benchmarks/ counts it."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_readme_quotes_the_counts_of_the_script() -> None:
    script = ROOT / "benchmarks" / "reading_path.py"
    output = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True).stdout
    counts = dict(re.findall(r"(functions|files|lines|changes of file) (\d+)", output.splitlines()[-1]))
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"{counts['functions']} functions in {counts['files']} files" in " ".join(readme.split())
    assert f"{counts['lines']} lines of code" in readme
