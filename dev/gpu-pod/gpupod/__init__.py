"""A one-node Kubernetes for a bare machine with an accelerator, from one archive: nothing is installed or fetched.

The programs, certificates, flags and namespaces are dev/cluster's (its package `devcluster` is on the path); here is
what differs where there is no `ip`, no iptables, no registry and no package manager. See ../README.md.
"""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(HERE.parent / "cluster"))
