"""Count tests and skips in a JUnit file; fail on a skip that nobody allowed, and on a run of no tests."""

import sys
from pathlib import Path
from xml.etree import ElementTree


def main(junit: str, allowed_path: str) -> int:
    lines = Path(allowed_path).read_text().splitlines()
    allowed = [line.split()[0] for line in lines if line.strip() and not line.startswith("#")]
    cases = list(ElementTree.parse(junit).getroot().iter("testcase"))
    bad = 0
    skipped = 0
    for case in cases:
        reason = case.find("skipped")
        if reason is None or reason.get("type") == "pytest.xfail":
            continue
        skipped += 1
        name = f"{case.get('classname')}::{case.get('name')}"
        if not any(part in name for part in allowed):
            bad += 1
            print(f"skipped and not allowed: {name}: {reason.get('message')}")
    failed = sum(1 for case in cases if case.find("failure") is not None or case.find("error") is not None)
    print(f"{len(cases) - failed - skipped} passed, {failed} failed, {skipped} skipped")
    return 1 if bad or not cases else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
