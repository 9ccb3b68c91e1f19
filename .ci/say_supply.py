"""Say in a line each what an SBOM and pip-audit found: `python say_supply.py SBOM AUDIT`."""

import json
import sys
from pathlib import Path


def read(path: str) -> dict:
    """A JSON file, or nothing where it was not written."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def main() -> None:
    """Print the lines."""
    sbom, audit = map(read, sys.argv[1:3])
    print(f"CycloneDX {sbom.get('specVersion', '-')}: {len(sbom.get('components', []))} packages")
    packages = audit.get("dependencies", [])
    audited = [one for one in packages if "vulns" in one]
    if not audited:
        print("pip-audit: no service that knows vulnerabilities answers here; nothing was audited")
        return
    print(f"pip-audit: {len(audited)} of {len(packages)} packages are known to the service")
    for one in audited:
        for hole in one["vulns"]:
            mend = ", ".join(hole.get("fix_versions", [])) or "no mended version"
            print(f"WARNING: {one['name']} {one['version']}: {hole['id']} ({mend})")


if __name__ == "__main__":
    main()
