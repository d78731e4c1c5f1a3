"""Times tfx_bsl's RecordBatchToExamplesEncoder, in an environment that has it and not cmdcm.

Usage: python tfx_bsl_encoder.py FILE, an Arrow file of large_list columns. For every line on its
standard input it encodes the file's batches once, and prints the seconds of processor time.
"""

import sys
import time

import pyarrow as pa
from tfx_bsl.cc.tfx_bsl_extension.coders import (  # type: ignore[import-not-found]
    RecordBatchToExamplesEncoder,
)


def main(path: str) -> None:
    with pa.memory_map(path) as source:
        batches = pa.ipc.open_file(source).read_all().to_batches()
        encoder = RecordBatchToExamplesEncoder(None)
        for _ in sys.stdin:
            start = time.process_time()
            for batch in batches:
                encoder.Encode(batch)
            print(time.process_time() - start, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
