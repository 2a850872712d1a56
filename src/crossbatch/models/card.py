"""The card of a model: what it was trained on, what was measured, who may use it, whom to cite.

The block at the top is what the Hugging Face Hub reads (`huggingface_hub.ModelCardData`).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

from crossbatch.models.config import EncoderConfig


@dataclass(frozen=True)
class ModelCard:
    """What is known of a model beside its tensors.

    Attributes:
        name: Of the model.
        licence: Of the weights, as an SPDX name in lower case (``apache-2.0``); None: not said.
        data: Lines on the training data, licences of its parts among them.
        metrics: Measured scores in [0, 1], each with its 95 % interval.
        measured: On what: protocol, split, queries, gallery.
        settings: The training's config, YAML.
        citation: BibTeX.
    """

    name: str
    licence: str | None = None
    data: Sequence[str] = ()
    metrics: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)
    measured: str = ""
    settings: str = ""
    citation: str = ""

    def text(self, config: EncoderConfig) -> str:
        """The card as Markdown."""
        parts = [
            f"---\n{self._head()}\n---\n\n# {self.name}",
            f"An image-retrieval encoder: images of {config.image_size} × {config.image_size} "
            f"pixels to {config.dim} numbers on the unit sphere. Cosine similarity ranks.",
            "```python\nimport crossbatch as xb\n\n"
            f'encoder = xb.Encoder.from_pretrained("{self.name}")  # a folder, or owner/model\n'
            'embeddings = encoder.encode(["a.jpg", "b.jpg"])\n'
            "similarity = embeddings @ embeddings.T\n```",
            "## Measured\n\n" + self._scores(),
            "## Data\n\n" + ("\n".join(f"- {line}" for line in self.data) or "Not said."),
            f"## Licence\n\n{self.licence or 'Of the weights: not said. Ask who trained them.'}",
            "## Encoder\n\n" + _table(("setting", "value"), asdict(config).items()),
        ]
        if self.settings:
            parts.append(f"## Training\n\n```yaml\n{self.settings.strip()}\n```")
        if self.citation:
            parts.append(f"## Citation\n\n```bibtex\n{self.citation.strip()}\n```")
        return "\n\n".join(parts) + "\n"

    def _scores(self) -> str:
        if not self.metrics:
            return "Nothing was measured."
        rows = [
            (key, f"{100 * value:.2f} ({100 * low:.2f} to {100 * high:.2f})")
            for key, (value, low, high) in self.metrics.items()
        ]
        return f"{self.measured}\n\n{_table(('metric', 'percent (95 % interval)'), rows)}"

    def _head(self) -> str:
        from huggingface_hub import EvalResult, ModelCardData  # slow to import

        results = [
            EvalResult(
                task_type="image-feature-extraction",
                dataset_type="manifest",
                dataset_name=self.measured,
                metric_type=key.replace("R@", "recall@").replace("@", "_at_").lower(),
                metric_name=key,
                metric_value=round(value, 4),
            )
            for key, (value, _, _) in self.metrics.items()
        ]
        data = ModelCardData(
            license=self.licence,
            library_name="crossbatch",
            pipeline_tag="image-feature-extraction",
            tags=["image-retrieval", "metric-learning"],
            model_name=self.name if results else None,
            eval_results=results or None,
        )
        return data.to_yaml()


def _table(head: tuple[str, str], rows: Iterable[tuple[str, object]]) -> str:
    lines = [f"| {head[0]} | {head[1]} |", "|---|---|"]
    lines += [f"| {key} | {value} |" for key, value in rows]
    return "\n".join(lines)
