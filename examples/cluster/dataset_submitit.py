"""Run a data set by an array of jobs with submitit, on SLURM or in processes of this machine.

python examples/cluster/dataset_submitit.py 64 --from-file names.txt -o /shared/out
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence

import submitit


def run_shard(shard: int, count: int, options: Sequence[str]) -> int:
    """Do one job's parts; return the exit code, 1 where some rows are errors."""
    command = [sys.executable, "-m", "bitrate_ext", "dataset", *options, "--shard", f"{shard}/{count}"]
    code = subprocess.run(command, check=False).returncode
    if code not in (0, 1):
        raise RuntimeError(f"shard {shard}/{count} ended with exit code {code}; the job's log says why")
    return code


def main(arguments: Sequence[str] | None = None) -> int:
    """Submit the jobs and wait for them; return 1 where some rows are errors."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("jobs", type=int, help="how many")
    parser.add_argument("--logs", default="logs", help="folder for submitit's files, which all jobs see")
    parser.add_argument("--cluster", help="slurm, local or debug (default: slurm where there is one)")
    parser.add_argument("--cpus", type=int, default=4, help="processors of each job")
    asked, options = parser.parse_known_args(arguments)
    executor = submitit.AutoExecutor(folder=asked.logs, cluster=asked.cluster)
    executor.update_parameters(name="bitrate-ext", cpus_per_task=asked.cpus, timeout_min=24 * 60)
    shards = range(1, asked.jobs + 1)
    jobs = executor.map_array(run_shard, shards, [asked.jobs] * asked.jobs, [options] * asked.jobs)
    return max(job.result() for job in jobs)


if __name__ == "__main__":
    sys.exit(main())
