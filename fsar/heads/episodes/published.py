"""Published test episodes as a list of ours."""

from typing import TYPE_CHECKING

import numpy as np

from fsar.heads.episodes.sampler import Episodes
from fsar.heads.episodes.saved_list import EpisodeList, to_list

if TYPE_CHECKING:
    from fsar.pipeline.published.episodes import PublishedEpisodes


def published_list(found: "PublishedEpisodes") -> EpisodeList:
    """Return the list of published episodes, whose supports and then queries follow each other in the store's rows."""
    n_episodes, n_support = found.support_labels.shape
    rows = np.arange(len(found.video_ids)).reshape(n_episodes, -1)
    episodes = Episodes(
        class_ids=found.class_ids,
        support=rows[:, :n_support],
        support_labels=found.support_labels,
        query=rows[:, n_support:],
        query_labels=found.query_labels,
        unlabelled=np.empty((n_episodes, 0), np.int64),
        indices=np.arange(n_episodes),
    )
    return to_list(episodes, found.class_names, found.video_ids)
