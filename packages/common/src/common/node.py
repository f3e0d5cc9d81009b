"""What a job starts: catch the signals at once, then let submitit load and run the pickled call.

Between the start of Python and submitit's own handlers lies about a second of imports; a notice that comes then would
kill the job, which Slurm would book as FAILED and not requeue.
"""

import os
import sys

from common import preempt

if __name__ == "__main__":
    preempt.install()
    sys.path.append(os.getcwd())  # last: python -P keeps it from coming before the snapshot of the code

    from submitit.core.submission import submitit_main

    submitit_main()
