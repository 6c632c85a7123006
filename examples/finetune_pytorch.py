#!/usr/bin/env python3
"""Fine-tune Pegasus or BlenderbotSmall in PyTorch.

    python examples/finetune_pytorch.py --train train.jsonl --validation validation.jsonl --output tuned
    torchrun --nproc-per-node 2 examples/finetune_pytorch.py ...      # on several processes

The command line, the data, the loop and the reports are those of finetune_tensorflow.py and finetune_flax.py; what
stands here is PyTorch's part.
"""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as distributed
import torch.distributed.checkpoint as distributed_checkpoint
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from finetuning.arguments import Settings, parse
from finetuning.batches import Batch
from finetuning.memory import keep_freed_memory
from finetuning.training import fine_tune
from seq2seq_models import AutoModelForSeq2SeqLM
from seq2seq_models.bundled import resolve_model

# One process saves its state in the same way as many do.
warnings.filterwarnings("ignore", "torch.distributed is disabled, unavailable or uninitialized")


class Loss(nn.Module):
    """The loss of a model as a module of its own: what DistributedDataParallel and FSDP wrap is called as one."""

    def __init__(self, model: Any, label_smoothing: float) -> None:
        super().__init__()
        self.model, self.label_smoothing = model, label_smoothing

    def forward(self, **batch: Tensor) -> Tensor:
        return self.model.cross_entropy(**batch, label_smoothing=self.label_smoothing if self.training else 0.0)


class PyTorchLearner:
    """A model, its optimizer, and what PyTorch does with a batch."""

    framework = "PyTorch"

    def __init__(self, settings: Settings) -> None:
        self.settings, self.rank, self.world = settings, 0, 1
        self.device = torch.device(settings.device or ("cuda" if torch.cuda.is_available() else "cpu"))
        if "RANK" in os.environ:  # set by torchrun and accelerate launch
            distributed.init_process_group("nccl" if self.device.type == "cuda" else "gloo")
            self.rank, self.world = distributed.get_rank(), distributed.get_world_size()
            if self.device.type == "cuda":
                self.device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
                torch.cuda.set_device(self.device)
        noise: dict[str, Any] = {}
        if settings.dropout is not None:
            noise = dict.fromkeys(("dropout", "attention_dropout", "activation_dropout"), settings.dropout)
        self.model = AutoModelForSeq2SeqLM.from_pretrained(resolve_model(settings.model), **noise).to(self.device)
        if settings.gradient_checkpointing:
            self.model.gradient_checkpointing_enable()
        self.trained: Any = Loss(self.model, settings.label_smoothing)
        self.distribute()
        self.weights = [weight for weight in self.trained.parameters() if weight.requires_grad]
        self.optimizer = self.make_optimizer()
        self.is_stale = False

    def distribute(self) -> None:
        """Share the data among all processes, and with `--shard-model N` also each copy of the model among N."""
        shards = self.settings.shard_model
        if self.world % shards:
            raise ValueError(f"--shard-model must divide the number of processes, got {shards} of {self.world}.")
        self.is_sharded = shards > 1
        if self.is_sharded:
            mesh = init_device_mesh(self.device.type, (self.world // shards, shards), mesh_dim_names=("copy", "shard"))
            # `self.model` stays whole, for evaluation and to be saved; what is trained are the shards.
            self.trained = copy.deepcopy(self.trained)
            encoder, decoder = self.trained.model.get_encoder(), self.trained.model.get_decoder()
            for part in [*encoder.layers, *decoder.layers, self.trained]:
                fully_shard(part, mesh=mesh)
        elif self.world > 1:
            self.trained = DistributedDataParallel(self.trained)

    def make_optimizer(self) -> torch.optim.Optimizer:
        """AdamW, or Adafactor, which keeps sums of rows and columns instead of a value for every weight."""
        if self.settings.optimizer == "adafactor":
            return torch.optim.Adafactor(self.weights, lr=0.0, weight_decay=self.settings.weight_decay)
        return torch.optim.AdamW(self.weights, lr=0.0, weight_decay=self.settings.weight_decay, fused=True)

    def precision(self) -> AbstractContextManager[Any]:
        """Matrix products in bfloat16, if that was asked for; weights, norms and the loss stay in float32."""
        if self.settings.precision == "bfloat16":
            return torch.autocast(self.device.type, torch.bfloat16)
        return nullcontext()

    def tensors(self, batch: Batch) -> dict[str, Tensor]:
        return {name: torch.from_numpy(value).to(self.device) for name, value in batch.inputs.items()}

    def step(self, several: Sequence[Batch], labels: int, rate: float, number: int) -> tuple[float, float]:
        """One update; the mean loss, and the gradient's norm."""
        # A seed for each update: one that is made after a kill drops what it would have dropped before.
        seed = np.random.SeedSequence([self.settings.seed, number, self.rank]).generate_state(1)
        torch.manual_seed(int(seed[0]))
        self.trained.train()
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        total = torch.zeros((), device=self.device)
        for place, batch in enumerate(several):
            with self.apart(place + 1 < len(several)), self.precision():
                loss = self.trained(**self.tensors(batch)) * (batch.labels / labels)
                # Gradients of all processes are averaged; their sum is meant.
                (loss * self.world).backward()
            total += loss.detach()
        if self.world > 1:
            distributed.all_reduce(total)
        norm = torch.nn.utils.clip_grad_norm_(self.weights, self.settings.clip or float("inf"))
        norm = norm.full_tensor() if self.is_sharded else norm
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.is_stale = self.is_sharded
        return total.item(), norm.item()

    def apart(self, more: bool) -> AbstractContextManager[Any]:
        """While more batches of an update follow, gradients stay where they are."""
        if self.is_sharded:
            self.trained.set_requires_gradient_sync(not more)
        elif self.world > 1 and more:
            return self.trained.no_sync()
        return nullcontext()

    def collect(self) -> None:
        """Make `self.model` what has been trained; on every process, as each evaluates its share of the data."""
        if self.is_stale:
            state = get_model_state_dict(self.trained.model, options=StateDictOptions(full_state_dict=True))
            self.model.load_state_dict(state)
        self.is_stale = False
        self.model.eval()

    @torch.no_grad()
    def loss(self, batch: Batch) -> float:
        """The loss of a batch, summed over its labels."""
        self.collect()
        with self.precision():
            return self.model.cross_entropy(**self.tensors(batch)).item() * batch.labels if batch.labels else 0.0

    def generate(self, batch: Batch) -> list[list[int]]:
        """Token ids written for each row."""
        self.collect()
        inputs = self.tensors(batch)
        with self.precision():
            ids = self.model.generate(
                inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                num_beams=self.settings.beams,
                max_new_tokens=self.settings.max_new_tokens,
            )
        return ids.tolist()

    def save(self, folder: Path) -> None:
        """Save the model as `from_pretrained` reads it."""
        self.collect()
        if self.rank == 0:
            self.model.save_pretrained(folder)

    def save_state(self, folder: Path) -> None:
        """Save weights and the optimizer's state, each process its own part."""
        distributed_checkpoint.save(self.state(), checkpoint_id=folder / "pytorch")

    def load_state(self, folder: Path) -> None:
        """Go back to what was saved, by however many processes."""
        state = self.state()
        distributed_checkpoint.load(state, checkpoint_id=folder / "pytorch")
        set_state_dict(
            self.plain(), self.optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"]
        )
        self.is_stale = self.is_sharded

    def plain(self) -> Any:
        """What is trained, without DistributedDataParallel around it."""
        return self.trained.module if self.world > 1 and not self.is_sharded else self.trained

    def state(self) -> dict[str, Any]:
        """All that the next update depends on, under names that are the same for any number of processes."""
        model, optimizer = get_state_dict(self.plain(), self.optimizer)
        return {"model": model, "optimizer": optimizer}

    def gather(self, values: list[Any]) -> list[Any]:
        """The values of all processes."""
        if self.world == 1:
            return values
        found: list[Any] = [None] * self.world
        distributed.all_gather_object(found, values)
        return [value for part in found for value in part]


if __name__ == "__main__":
    settings = parse(__doc__)
    keep_freed_memory()
    fine_tune(settings, PyTorchLearner(settings))
    if distributed.is_initialized():
        distributed.destroy_process_group()
