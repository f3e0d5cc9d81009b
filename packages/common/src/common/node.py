"""What a job starts: catch the signals at once, then let submitit load and run the pickled call.

Between the start of Python and submitit's own handlers lies about a second of imports; a notice that comes then would
kill the job, which Slurm would book as FAILED and not requeue.
"""

from common import preempt

if __name__ == "__main__":
    preempt.install()

    from submitit.core.submission import submitit_main

    submitit_main()
