"""`heal.students.worker` with the student shared out among processes that have a CPU each.

accelerate takes FSDP for GPUs and their like alone, and on CPUs trains whole copies; PyTorch's
`fully_shard` itself runs over gloo. So its state is told that these are GPUs, once the processes
have met as CPUs. All else is what `accelerate launch` starts. Fails unless weights were shared out.
"""

import sys
from pathlib import Path
from typing import Any

from accelerate.state import PartialState
from accelerate.utils import DistributedType
from torch.distributed.tensor import DTensor

from heal.students import trainer, worker
from heal.students.launch import Job

_began, _save_shared = PartialState.__init__, trainer.save_shared


def _as_gpus(self: PartialState, *args: Any, **options: Any) -> None:
    _began(self, *args, **options)
    if self.distributed_type is DistributedType.MULTI_CPU:
        self.distributed_type = DistributedType.MULTI_GPU


def _save_shards(trained: trainer.PlanTrainer, job: Job) -> None:
    for name, weights in trained.model.named_parameters():
        assert isinstance(weights, DTensor), name
        assert weights.to_local().numel() <= weights.numel() * 2 / 3, name
    _save_shared(trained, job)


if __name__ == "__main__":
    PartialState.__init__ = _as_gpus  # type: ignore[method-assign]
    trainer.save_shared = _save_shards
    sys.exit(worker.main(Path(sys.argv[1])))
