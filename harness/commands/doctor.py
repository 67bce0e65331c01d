"""``vlarig doctor``: one line for each thing that vlarig needs, with the command that mends what is missing."""

from __future__ import annotations

import argparse

from ..doctor import examine


def main(arguments: list[str]) -> int:
    """Print the findings; exit status 1 when something that is needed is missing."""
    parser = argparse.ArgumentParser(
        prog="vlarig doctor",
        description="Say in one line each what this machine has (ok), lacks (missing) or could have (optional). "
        "The exit status is 1 when something that is needed is missing.",
        epilog="example: vlarig doctor && vlarig sweep tabletop --policy expert",
    )
    parser.parse_args(arguments)
    findings = examine()
    width = max(len(finding.subject) for finding in findings)
    for finding in findings:
        print(f"{finding.mark:<8}  {finding.subject:<{width}}  {finding.text}")
    return int(any(finding.mark == "missing" for finding in findings))
