"""What an infer job may ask for, and what it returns."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

ARTIFACTS = {"npz": "predictions.npz", "json": "predictions.json"}


class InferParams(BaseModel):
    """The payload of an infer job; the model is its input `model`, the data its input `data`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: dict[str, list[JsonValue] | bool | float | str] | None = Field(
        default=None,
        description="A few inputs, inline: name to nested lists, one row an input; a shared one "
        "may be a single value. Instead of the input file `data`.",
    )
    batch_size: int = Field(
        default=64,
        ge=1,
        le=65_536,
        description="Rows a run; a model with a fixed first dimension uses that instead.",
    )
    inputs: dict[str, str] = Field(
        default_factory=dict,
        max_length=64,
        description="Name of a model input to name of an array of the data, where they differ.",
    )
    shared: list[str] = Field(
        default_factory=list,
        max_length=64,
        description="Model inputs without rows: every batch gets the whole array, such as a rate, "
        "a scale or an initial state.",
    )
    outputs: list[str] = Field(
        default_factory=list, max_length=64, description="Outputs to keep; empty keeps all."
    )
    top_k: int = Field(
        default=0,
        ge=0,
        le=1000,
        description="Keep only the k largest of the last axis of each output that has numbers and "
        "two axes or more, as <name>_values and <name>_indices; NaN counts as the smallest. 0 "
        "keeps the outputs as they are.",
    )
    format: Literal["npz", "json"] = "npz"
    threads: int = Field(
        default=0,
        ge=0,
        le=64,
        description="Threads of the CPU provider; 0 takes 1, the core infer asks for.",
    )


class OutputFacts(BaseModel):
    """One array of the predictions."""

    name: str
    shape: list[int]
    dtype: str


class InferResult(BaseModel):
    """The result of an infer job; the arrays are in its artifact."""

    count: int = Field(description="Rows.")
    batches: int
    artifact: str
    outputs: list[OutputFacts]
    provider: str = Field(description="CUDAExecutionProvider or CPUExecutionProvider.")
    devices: list[str] = Field(description="Names of the devices of the attempt.")
    simulated: bool = Field(description="True where the devices are simulated: the CPU computed.")
    seconds: float = Field(description="How long the batches ran, the loading aside.")
    model_sha256: str = Field(description="The first 12 hex digits of the model's SHA-256.")
