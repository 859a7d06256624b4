"""The section `shards` of `params.yaml`: apart from the decoder, because what is trained depends on it, too."""

from typing import Annotated, Literal

from pydantic import Field

from isic_siamese.params import Count, Section

Fit = Literal["stretch", "pad", "crop"]  # how an image that is not square is made square


class ShardsParams(Section):
    """The section `shards` of `params.yaml`."""

    image_px: Annotated[int, Field(ge=16, le=1024)]
    fit: Fit
    images_per_shard: Count
    exclude: list[str]
