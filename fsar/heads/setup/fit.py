"""Whether a trained head may be used on a store: the features must be those that it was trained on."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fsar.errors import InputError
from fsar.heads.head import Head

if TYPE_CHECKING:
    from fsar.pipeline.store import FeatureStore

FREE_FIELDS = ("taps", "n_views", "flip", "jitter", "format", "dtype")
"""Fields of a recipe that may differ between training and test: they do not change what a first view shows."""
SEEDLESS_SAMPLERS = ("uniform-center", "uniform-ends", "dense", "trx", "clipfsar-interval")
"""Samplers that draw nothing: with these the seed may differ, too."""


def check_recipe(head: Head, store: "FeatureStore", *, allow: bool = False) -> list[str]:
    """Return the fields in which a store's recipe differs from that of a head's training; none without a run.

    Raises:
        InputError: there are such fields and `allow` is off.
    """
    if "recipe" not in head.trained or head.trained.get("recipe_id") == store.recipe_id:
        return []
    differing = _differing(head.trained["recipe"], store.recipe)
    if differing and not allow:
        raise InputError(
            f"{store.path} was made by another recipe than the features that the head was trained on: "
            f"{'; '.join(differing)}. Encode with the same settings, or pass --allow-recipe (allow_recipe=True)"
        )
    return differing


def _differing(trained: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    from fsar.pipeline.store import differing_fields

    free = (*FREE_FIELDS, *(["seed"] if here.get("sampler") in SEEDLESS_SAMPLERS else []))
    return differing_fields(*({k: v for k, v in recipe.items() if k not in free} for recipe in (trained, here)))
