"""What pages show of a training: its charts and its epochs."""

from __future__ import annotations

from markupsafe import Markup

from gauntlet.contracts.training import History
from gauntlet.pages.page import Masthead, Section, partial, render
from gauntlet.trainer.curves import training_charts, validation_metrics


def training_section(history: History, encoder: str | None = None) -> Markup:
    """The body of a section about a training's history."""
    template = "gauntlet.components.train_model:training.html.jinja"
    metrics = validation_metrics(history)
    return partial(
        template, history=history, metrics=metrics, charts=training_charts(history), encoder=encoder
    )


def training_page(history: History, name: str) -> str:
    """The page of train-model for the system `name`."""
    headline = f"Trained for {len(history.epochs)} epochs, best {history.best_epoch}"
    section = Section("training", "Training", training_section(history))
    return render(Masthead(name, "training", headline), [section])
