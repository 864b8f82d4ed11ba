"""Whole official training steps from pixels, as files, and our model and recipe for each.

`goldens/finetune_<method>/` holds frames, the state before training, and what the official loop computed: features of
both backbone calls, losses, gradients, parameters and running statistics after one and two steps.
"""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from fsar.heads import EpisodeBatch, Head, PairBatch, Targets
from fsar.heads.checkpoints.official import import_official, official_format
from fsar.heads.checkpoints.official.formats import our_name
from fsar.heads.finetune.model import PIXELS, EndToEnd, Task
from fsar.heads.finetune.official_names import library_name
from fsar.heads.finetune.tower import Tower
from fsar.heads.finetune.tuning import Tuning
from fsar.heads.recipes.presets import Preset
from fsar.heads.recipes.schedules import Constant, DoubleClock, MultiStep
from fsar.pipeline.backbones import Backbone, TapPoints
from fsar.pipeline.backbones.open_clip import _points
from tests.heads.goldens import without_dropout
from tests.heads.goldens_vision_language import Leaking

FAMILY = ("clip_fsar", "otam", "hyrsm", "hyrsm_pp", "emp_net")
"""Methods of the CLIP-FSAR code base."""
PERRETT = ("trx", "strm", "clip_mei")
"""Methods whose loops count episodes from one."""
TAPS = {
    "clip_fsar": {"frames": "pooled"},
    "clip_mei": {"frames": "pooled"},
    "emp_net": {"tokens_early": "tokens.early", "tokens_middle": "tokens.middle", "tokens_late": "tokens.late"},
    "strm": {"patches": "map"},
    "hcl": {"map": "map"},
}


class NarrowResNet(ResNet):
    """torchvision's ResNet with another number of channels in the stem."""

    def __init__(self, shape: dict[str, Any]) -> None:
        nn.Module.__init__(self)
        block = {"basic": BasicBlock, "bottleneck": Bottleneck}[shape["block"]]
        width, depths, dilate = shape["base_width"], shape["layers"], shape["replace_stride_with_dilation"]
        self._norm_layer, self.inplanes, self.dilation, self.groups, self.base_width = nn.BatchNorm2d, width, 1, 1, 64
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1, self.relu = nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = self._make_layer(block, width, depths[0])
        for number, depth in enumerate(depths[1:]):
            layer = self._make_layer(block, width * 2 ** (number + 1), depth, stride=2, dilate=dilate[number])
            setattr(self, f"layer{number + 2}", layer)
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Identity()


def clip_tower(shape: dict[str, Any]) -> nn.Module:
    """open_clip's own classes in a small size."""
    from open_clip.modified_resnet import ModifiedResNet
    from open_clip.transformer import QuickGELU, VisionTransformer

    if shape["kind"] == "clip_resnet":
        return ModifiedResNet(
            shape["layers"], shape["output_dim"], shape["heads"], image_size=shape["image"], width=shape["width"]
        )
    return VisionTransformer(
        image_size=shape["image"],
        patch_size=shape["patch"],
        width=shape["width"],
        layers=shape["layers"],
        heads=shape["heads"],
        mlp_ratio=4.0,
        output_dim=shape["output_dim"],
        act_layer=QuickGELU,
    )


@dataclass
class OfficialSteps:
    """One file."""

    path: Path

    @cached_property
    def metadata(self) -> dict[str, Any]:
        with safe_open(self.path, "pt") as file:
            found: dict[str, Any] = json.loads(file.metadata()["json"])
        return found

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        with safe_open(self.path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118

    def below(self, prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): t for name, t in self.tensors.items() if name.startswith(prefix)}

    @property
    def method(self) -> str:
        return str(self.metadata["method"])

    @property
    def library(self) -> str:
        return "torchvision" if self.metadata["backbone"]["kind"] == "torchvision_resnet" else "open_clip"

    def backbone(self) -> Backbone:
        """The tower with the official weights, loaded under their official names."""
        shape = self.metadata["backbone"]
        module = NarrowResNet(shape) if self.library == "torchvision" else clip_tower(shape)
        state = self.below("state." + self.metadata["backbone_prefix"])
        module.load_state_dict({library_name(self.library, name): tensor for name, tensor in state.items()})
        points = TapPoints(map_module=module.layer4) if self.library == "torchvision" else _points(module)
        return Backbone(
            self.library,
            "small",
            "file",
            module,
            shape["output_dim"],
            self.metadata["image_size"],
            (0,) * 3,
            (1,) * 3,
            points,
            "",
        )

    def head(self) -> Head:
        state = self.below("state.")
        if self.metadata["head_prefix"]:
            state = self.below("state." + self.metadata["head_prefix"])
        prefix = self.metadata["backbone_prefix"].removeprefix(self.metadata["head_prefix"])
        state = {name: tensor for name, tensor in state.items() if not name.startswith(prefix)}
        metadata = {
            "train_flags": self.metadata.get("train_config", {}),
            **self.metadata,
            **self.metadata.get("options", {}),
        }
        head = import_official(self.method, {**state, **self.below("unregistered.")}, metadata, compat="official")
        if self.method == "clip_mei":
            head.auxiliary_weight = 0.001 * self.metadata["tasks_per_batch"]
        return without_dropout(head)

    def model(self) -> EndToEnd:
        model = EndToEnd(Tower(self.backbone(), TAPS.get(self.method, {"frames": "pooled"})), self.head())
        model.tower.module.requires_grad_(self.method != "emp_net")
        return model

    def preset(self) -> Preset:
        """The recipe, from the settings that the file records."""
        data = self.metadata
        optimizer, schedule = data["optimizer"], data["schedule"]
        if self.method in FAMILY:
            config = data["train_config"]
            return Preset(
                "vector",
                optimizer="adam",
                lr=schedule["base_lr"],
                weight_decay=1e-3,
                undecayed=("norm", "bn"),
                schedule=DoubleClock(
                    schedule["steps_iter"],
                    tuple(schedule["steps"]),
                    tuple(schedule["lrs"]),
                    schedule["warmup_start_lr"] / schedule["base_lr"],
                    schedule["warmup_epochs"],
                ),
                episodes_per_step=config["BATCH_SIZE_PER_TASK"],
                reduction="sum" if self.method == "emp_net" else "mean",
            )
        if self.method == "hcl":
            gamma, step = schedule["gamma"], schedule["step_size_in_epochs"]
            milestones = MultiStep((step,), gamma)
            lr = data["lr_of_step"][0][0]
            return Preset("vector", optimizer="adamw", lr=lr, weight_decay=1e-4, schedule=milestones, clip_norm=0.1)
        milestones = schedule["milestones_in_tasks"]
        return Preset(
            "vector",
            optimizer=optimizer["name"],
            lr=optimizer["lr"],
            betas=tuple(optimizer["betas"] or (0.9, 0.999)),
            weight_decay=optimizer["weight_decay"],
            schedule=MultiStep(tuple(milestones), schedule["gamma"]) if milestones else Constant(),
            episodes_per_step=data["tasks_per_batch"],
        )

    def tuning(self) -> Tuning:
        mode = self.metadata["mode"]
        frozen_statistics = mode.get("backbone_training") is False and "running" in mode["batch_norm"]
        return Tuning(
            batch_norm="eval" if frozen_statistics else "train",
            compat="official",
            short_first_step=self.method in PERRETT,
            backbone_rate=0.1 if self.metadata["backbone_prefix"] == "encoder.module." else 1.0,
            divisor=self.metadata["train_config"]["BATCH_SIZE"] if self.method in FAMILY[:-1] else None,
        )

    def tasks(self, step: int) -> list[Task]:
        """The tasks of a step, as our settings deal them."""
        return [self.task(n) for n in self.tuning().episodes_of(step, self.preset().episodes_per_step)]

    def task(self, number: int, part: str = "train") -> Task:
        episode = self.below(f"episode{self.metadata['episode_of_task'][number]}.")
        if "videos" in episode:
            return PairBatch({PIXELS: episode["videos"]}, episode["labels"])
        labels = episode["support_labels"]
        text, table = self._text(number, part, labels, episode.get("support_class_ids"))
        batch = EpisodeBatch(
            {PIXELS: episode["support"][None]}, labels[None], {PIXELS: episode["query"][None]},
            self.metadata["way"], text,
        )  # fmt: skip
        ids = {name: episode[name][None] for name in ("support_class_ids", "query_class_ids") if name in episode}
        return batch, Targets(episode["query_labels"][None], all_class_text=table, **ids)

    def _text(self, number: int, part: str, labels: Tensor, ids: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """The texts of the episode's classes (1, N, M, D) and of all (K, M, D)."""
        if f"text.{part}" not in self.tensors:
            return None, None
        assert ids is not None
        table = self.tensors[f"text.{part}"]
        table = table if table.ndim == 3 else table[None]  # (M, K, D)
        templates = self.metadata.get("template_of_task")
        if templates and part == "train":
            table = table[templates[number]][None]
        first = [int((labels == label).nonzero()[0]) for label in range(self.metadata["way"])]
        return table[:, ids[first]].transpose(0, 1)[None], table.transpose(0, 1)

    def with_official_inputs(self, head: Head, number: int, part: str = "train") -> None:
        """Give the head what the official code reads besides: texts that no batch holds."""
        if f"text.{part}" not in self.tensors:
            return
        episode = self.below(f"episode{self.metadata['episode_of_task'][number]}.")
        table = self.tensors[f"text.{part}"]
        if self.method == "clip_mei":
            head.__class__ = Leaking
            head.query_text = table[episode["query_class_ids"]][None]
        if self.method == "emp_net":
            _, all_text = self._text(number, part, episode["support_labels"], episode["support_class_ids"])
            head.overlooked_text = lambda: all_text[0].mean(0)

    def our_names(self, official: str) -> str | None:
        """Our name in the model of an official parameter; None for one that our head has no use for."""
        prefix = self.metadata["backbone_prefix"]
        if official.startswith(prefix):
            return f"tower.module.{library_name(self.library, official.removeprefix(prefix))}"
        name = our_name(official_format(self.method), official.removeprefix(self.metadata["head_prefix"]))
        return None if name is None else f"head.{name}"
