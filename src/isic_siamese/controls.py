"""Controls that could embarrass the network: what colour, metadata, an untrained or a borrowed encoder reach."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from sklearn import metrics as sk
from sklearn.compose import make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from torch.nn import functional

from isic_siamese.areas import rank_auc
from isic_siamese.arrays import Bools, Embeddings, Floats, Ints
from isic_siamese.bootstrap import Resamples, figure, percentile_ends, resample_images
from isic_siamese.devices import pick_device
from isic_siamese.embedding import pool_rows
from isic_siamese.encoder import BUNDLED_ENCODER, build_encoder
from isic_siamese.evaluation import EvaluateParams
from isic_siamese.shards import READ_BATCH, Shards
from isic_siamese.votes import vote_scores

Features = npt.NDArray[np.floating]  # (N, F), by row of the index

STAGES = 4  # of the bundled encoder, as the network uses it by default
SHRINKAGE = 0.001  # C of the regression on 2,496 features, which outnumber the melanomas
# Of votes on features, which lie further apart than embeddings do; the best of 0.05 to 0.8 on a subset of ISIC 2020.
FROZEN_TEMPERATURE = 0.4
SHUFFLES = 20  # of the labels; one alone lies off 0.5 by chance


@dataclass(frozen=True)
class ControlData:
    """What the controls learn from and are tested on: the same splits as the network.

    Attributes:
        index: a row an image.
        references: rows of the images that answers rest on: those of the training and the validation split.
        test: rows of the test split.
        shards: the images.
        evaluate: in how many orientations images are embedded, and the penalty on votes, as for the network.
    """

    index: pd.DataFrame
    references: Ints
    test: Ints
    shards: Shards
    evaluate: EvaluateParams

    @property
    def malignant(self) -> Bools:
        """The label of each image."""
        return np.asarray(self.index["target"] == 1)


def control_scores(data: ControlData, seed: int) -> Iterator[tuple[str, Floats]]:
    """Yield the name of each control and its scores of the test images, high where melanoma is likely."""
    yield "mean_colour", regress(data, mean_colours(data.shards))
    yield "metadata", _metadata_scores(data)
    labels, orientations = data.malignant[data.references], data.evaluate.orientations
    untrained = FrozenFeatures("none", data.shards, orientations, seed)
    yield "untrained_encoder", vote(data, untrained.embeddings(data.references), labels)
    del untrained  # before the next is made: each holds the features of all images
    frozen = FrozenFeatures("imagenet", data.shards, orientations, seed)
    embeddings = frozen.embeddings(data.references)
    yield from frozen_scores(data, frozen.pooled, embeddings)
    rng = np.random.default_rng(seed)
    for number in range(SHUFFLES):
        yield f"shuffled_labels.{number}", vote(data, embeddings, rng.permutation(labels))


def frozen_scores(data: ControlData, pooled: Features, embeddings: Embeddings) -> Iterator[tuple[str, Floats]]:
    """Yield what a regression on the features of `FrozenFeatures` makes of them, and what votes on them do."""
    yield "imagenet_features", regress(data, pooled, SHRINKAGE)
    yield "imagenet_votes", vote(data, embeddings, data.malignant[data.references])


class FrozenFeatures:
    """What the network pools from each image before it learns.

    Attributes:
        pooled: the mean over the orientations, float32 `(N, F)`.
    """

    def __init__(self, weights: str, shards: Shards, orientations: int, seed: int) -> None:
        """Pool all images; `weights` as in `build_encoder`, and `seed` is for random ones."""
        torch.manual_seed(seed)
        self._encoder = build_encoder(BUNDLED_ENCODER, weights, STAGES, 1, shards.image_px).to(pick_device())
        self._encoder.freeze()
        pooled = pool_rows(self._encoder, shards, np.arange(len(shards)), orientations, "pool each way up")
        self._encoder.cpu()
        self.pooled = np.asarray(pooled.cpu().numpy(), np.float32)

    @torch.no_grad()
    def embeddings(self, references: Ints) -> Embeddings:
        """Return them as the network would compare them, had it no head: standardised by the images at `references`."""
        self._encoder.standardise(torch.from_numpy(self.pooled[references]))
        standardised = self._encoder.standardised(torch.from_numpy(self.pooled))
        return np.asarray(functional.normalize(standardised, dim=1).numpy(), np.float32)


def mean_colours(shards: Shards) -> Floats:
    """Return the mean red, green and blue of each image, float64 `(N, 3)`, levels of 255."""
    batches = shards.batches(np.arange(len(shards)), READ_BATCH, "mean colours")
    return np.concatenate([batch.mean(axis=(1, 2)) for batch in batches])


def regress(data: ControlData, features: Features, c: float = np.inf) -> Floats:
    """Score the test images by a logistic regression on standardised `features` `(N, F)`; `c` as in scikit-learn."""
    scaler = StandardScaler(copy=False)  # of rows that are a copy already
    model = make_pipeline(scaler, LogisticRegression(C=c, class_weight="balanced", max_iter=5000))
    model.fit(features[data.references].astype(np.float64), data.malignant[data.references])
    return np.asarray(model.decision_function(features[data.test].astype(np.float64)), np.float64)


def _metadata_scores(data: ControlData) -> Floats:
    """Score the test images by a logistic regression on age, sex and body site; what is missing is a value too."""
    table = data.index.assign(age=pd.to_numeric(data.index["age_approx"].replace("", np.nan)))
    columns = make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore"), ["sex", "anatom_site_general_challenge"]),
        (make_pipeline(SimpleImputer(add_indicator=True, keep_empty_features=True), StandardScaler()), ["age"]),
    )
    model = make_pipeline(columns, LogisticRegression(class_weight="balanced", max_iter=5000))
    model.fit(table.iloc[data.references], data.malignant[data.references])
    return np.asarray(model.decision_function(table.iloc[data.test]), np.float64)


def vote(data: ControlData, embeddings: Embeddings, labels: Bools) -> Floats:
    """Score the test images by the votes of the references, which have `labels` `(R,)`; `embeddings` of all images."""
    asked, references = embeddings[data.test], embeddings[data.references]
    return vote_scores(asked, references, labels, FROZEN_TEMPERATURE, data.evaluate.vote_penalty)


def _area(measure: Callable[[Floats], Floats], weights: Floats) -> dict[str, Floats]:
    return {"roc_auc": measure(weights)}


def control_figures(
    scores: Iterable[tuple[str, Floats]], malignant: Bools, resamples: Resamples, confidence: float
) -> dict[str, object]:
    """Return the ROC AUC of each control with its interval; of the shuffles their mean, and how far they spread."""
    figures: dict[str, object] = {}
    shuffled = []
    for name, values in scores:
        area = float(sk.roc_auc_score(malignant, values))
        if name.startswith("shuffled_labels."):
            shuffled.append(area)
            continue
        spread = resample_images(partial(_area, rank_auc(values, malignant)), resamples)
        figures[name] = {"roc_auc": figure(area, spread["roc_auc"], confidence, resamples.n_rarer)}
    low, high = percentile_ends(np.array(shuffled), confidence).tolist()  # of the shuffles, not of their mean
    figures["shuffled_labels"] = {"roc_auc": {"value": float(np.mean(shuffled)), "low": low, "high": high}}
    return figures | {"all_benign": {"accuracy": {"value": float(1 - malignant.mean())}}}
