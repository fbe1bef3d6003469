"""What pages show of a training: its charts and its epochs."""

from __future__ import annotations

from markupsafe import Markup

from gauntlet.contracts.training import History, OriginForm
from gauntlet.pages.formatting import decimal, words
from gauntlet.pages.page import Masthead, Section, partial, render
from gauntlet.trainer.curves import training_charts, validation_metrics

FORM_WORDS: dict[OriginForm, str] = {"checkpoint": "a checkpoint", "onnx": "an ONNX graph"}


def training_section(history: History, encoder: str | None = None) -> Markup:
    """The body of a section about a training's history."""
    template = "gauntlet.components.train_model:training.html.jinja"
    metrics = validation_metrics(history)
    return partial(
        template, history=history, metrics=metrics, charts=training_charts(history), encoder=encoder
    )


def imported_section(history: History) -> Markup:
    """The same for a model that was trained elsewhere."""
    origin, epoch = history.origin, history.epochs[0]
    assert origin is not None
    figures = ", ".join(f"{words(name)} {decimal(value, 3)}" for name, value in epoch.validation.items())
    return Markup(
        '<p class="soft">Nothing was trained: the model is {} that was trained elsewhere, taken from '
        "<code>{}</code> "
        "(sha256 <code>{}</code>). On the validation split: {}.</p>"
    ).format(FORM_WORDS[origin.form], origin.source, origin.sha256[:12], figures)


def training_page(history: History, name: str) -> str:
    """The page of train-model for the system `name`."""
    headline = f"Trained for {len(history.epochs)} epochs, best {history.best_epoch}"
    section = Section("training", "Training", training_section(history))
    return render(Masthead(name, "training", headline), [section])
