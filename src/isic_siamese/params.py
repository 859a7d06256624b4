"""Read `params.yaml`, strictly: DVC checks nothing, so a mistyped key would silently keep its old meaning."""

from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from isic_siamese.errors import ParamsError

PATH = Path("params.yaml")

Fraction = Annotated[float, Field(gt=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


class Section(BaseModel):
    """A section of `params.yaml`: frozen, every key required, none unknown, types exact."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Common(Section):
    """The keys at the top level of `params.yaml`."""

    release: Annotated[str, Field(min_length=1)]
    seed: Seed
    margin: Annotated[float, Field(gt=0, le=2)]  # unit-length embeddings are never more than 2 apart


SectionT = TypeVar("SectionT", bound=Section)


class Params:
    """The parsed file: `common` is checked on reading, a section when it is asked for."""

    def __init__(self, path: Path = PATH) -> None:
        """Read `path`.

        Raises:
            ParamsError: the file is absent, is not YAML, or has a wrong key at its top level.
        """
        self._path = path
        try:
            # ruamel reads YAML 1.2, where 1e-3 is a number; PyYAML would read a string.
            content = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ParamsError(f"{path}: no such file; run from the root of the repository") from None
        except (YAMLError, ValueError) as error:  # a ValueError for letters that are no UTF-8, or the 31st of February
            raise ParamsError(f"{path}: not YAML: {error}") from None
        if not isinstance(content, dict):
            got = "nothing" if content is None else type(content).__name__
            raise ParamsError(f"{path}: wanted keys and values, got {got}")
        # What is no single value is a section, so that a new one makes no stage stale; a misspelt one is missed later.
        nested = [
            name
            for name, value in content.items()
            if name not in Common.model_fields and not isinstance(value, str | int | float)
        ]
        self._sections = {name: content.pop(name) for name in nested}
        self.common = self._check("", content, Common)

    def section(self, name: str, model: type[SectionT]) -> SectionT:
        """Return the section `name` as a `model`.

        Raises:
            ParamsError: it is missing, or one of its keys is unknown, missing, mistyped or out of range.
        """
        if name not in self._sections:
            known = ", ".join(self._sections) or "none"
            raise ParamsError(f"{self._path}: section '{name}' is missing; there are: {known}")
        if not isinstance(self._sections[name], dict):
            raise ParamsError(f"{self._path}: {name}: wanted keys and values, got {self._sections[name]!r}")
        return self._check(name, self._sections[name], model)

    def _check(self, name: str, content: object, model: type[SectionT]) -> SectionT:
        try:
            return model.model_validate(content)
        except ValidationError as error:
            lines = [self._explain(name, problem) for problem in error.errors()]
            raise ParamsError("\n".join(lines)) from None

    def _explain(self, name: str, problem: ErrorDetails) -> str:
        key = ".".join(str(part) for part in (name, *problem["loc"]) if part != "")
        where, message = f"{self._path}: {key}", problem["msg"]
        if problem["type"] == "value_error":  # of a check of ours, which says itself what came
            return f"{where}: {problem['ctx']['error']}"
        if problem["type"] == "missing":
            return f"{where}: this key is missing"
        if problem["type"] == "extra_forbidden":
            return f"{where}: no such key; check its spelling"
        return f"{where}: {message[0].lower()}{message[1:]}, got {problem['input']!r}"
