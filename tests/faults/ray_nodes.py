"""A Ray cluster of several nodes on this machine, in a process of its own: `python ray_nodes.py NODES`.

Says the address of the cluster on stdout; then does what stdin says, a line each, and answers each: "add" a node,
"kill" the last one at once with all its processes; at the end of stdin it ends them all, and itself.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys

from processes import descendants
from ray.cluster_utils import Cluster

NODE = {"num_cpus": 1, "object_store_memory": 80 << 20, "include_dashboard": False}


def kill(cluster: Cluster, node: object) -> None:
    """As a machine ends that loses its power: without a word to anyone."""
    below = {info.process.pid for infos in node.all_processes.values() for info in infos}  # type: ignore[attr-defined]
    for process in below.union(*(descendants(each) for each in below)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    cluster.remove_node(node, allow_graceful=False)


def main(count: int) -> None:
    """Start so many nodes, and serve."""
    cluster = Cluster(initialize_head=True, head_node_args=NODE)
    try:
        nodes = [cluster.add_node(**NODE) for _ in range(count - 1)]
        sys.stdout.write(f"{cluster.address}\n")
        sys.stdout.flush()
        for line in sys.stdin:
            if line.strip() == "add":
                nodes.append(cluster.add_node(**NODE))
            else:
                kill(cluster, nodes.pop())
            sys.stdout.write("done\n")
            sys.stdout.flush()
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main(int(sys.argv[1]))
