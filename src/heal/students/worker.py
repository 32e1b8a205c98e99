"""One of the processes that share a stage's training: `python -m heal.students.worker FOLDER`.

Started by accelerate with the folder of a `launch.Job`. All of them read the same batches and train
their share; the first writes losses, checkpoints and the student.
"""

import json
import os
import sys
from pathlib import Path


def main(folder: Path) -> int:
    """Train the job; the exit code."""
    from heal.engines import read_tokenizer, read_weights
    from heal.errors import UserError
    from heal.students.allocator import keeps_memory
    from heal.students.launch import FINISHED, LOSSES, NOTES, REFUSED, Job
    from heal.students.train import quiet, threads, unmark_gguf
    from heal.students.trainer import save_shared, trained

    job, first = Job.read(folder), os.environ.get("RANK", "0") == "0"
    with (folder / LOSSES).open("a", encoding="utf-8") as losses:

        def tell(step: int, loss: float) -> None:
            if first:
                losses.write(f"{json.dumps(loss)}\n")
                losses.flush()

        def note(text: str) -> None:
            if first:
                with (folder / NOTES).open("a", encoding="utf-8") as notes:
                    notes.write(f"{json.dumps(text)}\n")

        try:
            with quiet(), threads(job.settings.threads), keeps_memory():
                model, tokenizer = read_weights(job.source), read_tokenizer(job.source)
                unmark_gguf(model)
                save_shared(trained(model, tokenizer, job, tell, note), job)
        except UserError as error:
            if first:
                told = {"message": str(error), "hint": error.hint}
                (folder / REFUSED).write_text(json.dumps(told), encoding="utf-8")
            return error.exit_code
    if first:
        (folder / FINISHED).touch()
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
