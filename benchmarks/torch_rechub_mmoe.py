"""Training steps of torch-rechub's MMOE; the rival of `bench_train`.

It is run by the interpreter of an environment of its own, which has torch and torch-rechub and not
cmdcm. The step is that of its `MTLTrainer` with the default optimizer, Adam on all weights; batches
lie in memory as tensors. For each line on the standard input, a number of steps, it takes them and
prints their seconds; its first line is the number of weights.

Usage: python torch_rechub_mmoe.py BATCHES.npz SETTINGS.json
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch_rechub.basic.features import DenseFeature, SequenceFeature, SparseFeature
from torch_rechub.models.multi_task import MMOE
from torch_rechub.trainers import MTLTrainer


def main(batches: str, settings: str) -> None:
    """Prints the number of weights, and then answers until the input ends."""
    config = json.loads(Path(settings).read_text(encoding="utf-8"))
    torch.manual_seed(0)
    torch.set_num_threads(config["threads"])
    first: dict[str, str] = {}  # the feature that holds a table
    features = [DenseFeature("numbers", config["numbers"])]
    for name, (table, length) in config["ids"].items():
        holder = first.setdefault(table, name)
        kind = SparseFeature if length == 1 else SequenceFeature
        features.append(
            kind(
                name,
                config["tables"][table] + 1,
                config["dim"],
                shared_with=None if holder == name else holder,
                padding_idx=0,
            )
        )
    tasks = ["classification"] * config["tasks"]
    model = MMOE(
        features,
        tasks,
        config["experts"],
        {"dims": config["expert_units"]},
        [{"dims": config["tower_units"]} for _ in tasks],
    )
    trainer = MTLTrainer(model, tasks, device="cpu")
    model.train()
    loaded = np.load(batches)
    count = int(loaded["count"])
    names = ["numbers", *config["ids"]]
    inputs = [
        {name: torch.from_numpy(loaded[f"{n}/{name}"]) for name in names} for n in range(count)
    ]
    labels = [torch.from_numpy(loaded[f"{n}/labels"]) for n in range(count)]

    def step(n: int) -> float:
        started = time.perf_counter()
        predicted = model(inputs[n % count])
        truth = labels[n % count]
        losses = [
            trainer.loss_fns[task](predicted[:, task], truth[:, task]) for task in range(len(tasks))
        ]
        loss = sum(losses) / len(losses)
        model.zero_grad()
        loss.backward()
        trainer.optimizer.step()
        loss.item()
        return time.perf_counter() - started

    step(0)
    print(sum(weight.numel() for weight in model.parameters()), flush=True)
    taken = 0
    for line in sys.stdin:
        seconds = [step(taken + n) for n in range(int(line))]
        taken += len(seconds)
        print(sum(seconds), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
