"""The same command on every rank, as `torchrun` would start it."""

import os
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

PATIENCE = 400  # seconds, on a machine that is at other work, too


def start(arguments, world=2):
    """One process for each rank."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", *map(str, arguments)],
            env={
                **os.environ,
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                "OMP_NUM_THREADS": "1",
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(world),
                "NCCL_HOSTID": str(rank),  # so that two ranks may share one GPU
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(world)
    ]


def launch(arguments, world=2):
    """Waits for all ranks, and fails with what they said; one that fails ends the others."""
    ranks = start(arguments, world)
    with ThreadPoolExecutor(world) as pool:  # who listens to one alone lets another's pipe fill
        said = [pool.submit(rank.communicate) for rank in ranks]
        end = time.monotonic() + PATIENCE
        codes = [None] * world
        while None in codes and not any(codes) and time.monotonic() < end:
            time.sleep(0.05)
            codes = [rank.poll() for rank in ranks]
        for rank in ranks:
            rank.kill()
    assert codes == [0] * world, "\n".join(part.result()[0] for part in said)
