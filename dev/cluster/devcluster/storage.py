"""Static `local` volumes for the default storage class: they honour fsGroup, as hostPath does not.

What is in them lasts until `down`, or until the claim was deleted and `up` makes the volume new.
"""

import json
import shutil
from typing import Any

from devcluster.instance import Instance
from devcluster.kubectl import kubectl

# A volume of mode ReadWriteOncePod may have no other mode.
_MODES = {f"local-{number:02}": "ReadWriteOnce" if number < 12 else "ReadWriteOncePod" for number in range(20)}


def _volume(instance: Instance, name: str, mode: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": {
            "capacity": {"storage": "10Gi"},  # a promise, not a limit: it is a folder on this machine's disk
            "accessModes": [mode],
            "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": "local",
            "local": {"path": str(instance.state / "volumes" / name)},
            "nodeAffinity": {
                "required": {
                    "nodeSelectorTerms": [
                        {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["node"]}]}
                    ]
                }
            },
        },
    }


def renew(instance: Instance) -> None:
    """Makes the volumes that do not exist, and empties those whose claim was deleted: they can be claimed again."""
    volumes = json.loads(kubectl(instance, "get", "persistentvolumes", "-o", "json"))["items"]
    existing = {volume["metadata"]["name"]: volume for volume in volumes}
    for name in _MODES:
        folder = instance.state / "volumes" / name
        if name in existing and existing[name]["status"].get("phase") in ("Released", "Failed"):
            kubectl(instance, "delete", "persistentvolume", name)
            shutil.rmtree(folder, ignore_errors=True)
            del existing[name]
        folder.mkdir(parents=True, exist_ok=True)
    missing = [_volume(instance, name, mode) for name, mode in _MODES.items() if name not in existing]
    if missing:
        kubectl(instance, "apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": missing}))
