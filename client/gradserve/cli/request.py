"""The options that every request carries, as options of the command line."""

from typing import Annotated

import typer

_PANEL = "Request"

Model = Annotated[str, typer.Option("--model", "-m", help="Name of the model; the server's default if left out.")]
Preprocess = Annotated[
    str,
    typer.Option(
        "--preprocess",
        help="model_default (resize and crop as the model's card says), whole_image (no crop) or as_is (no resize).",
        rich_help_panel=_PANEL,
    ),
]
Priority = Annotated[str, typer.Option("--priority", help="interactive or batch.", rich_help_panel=_PANEL)]
Precision = Annotated[str, typer.Option("--precision", help="auto, exact, balanced or fast.", rich_help_panel=_PANEL)]
Seed = Annotated[
    int | None, typer.Option("--seed", help="Seed of everything random. Default: 0.", rich_help_panel=_PANEL)
]
TimeBudget = Annotated[
    float | None,
    typer.Option("--time-budget", help="The most seconds that an answer may take.", rich_help_panel=_PANEL),
]
AllowPartial = Annotated[
    bool,
    typer.Option("--allow-partial", help="When time runs out, take what there is.", rich_help_panel=_PANEL),
]
QuickDecode = Annotated[
    bool,
    typer.Option(
        "--quick-decode",
        help="Decode large JPEG photos at a fraction of their size: faster, and maps change.",
        rich_help_panel=_PANEL,
    ),
]
Alone = Annotated[
    bool,
    typer.Option("--alone", help="Share no pass with others: repeatable to the bit.", rich_help_panel=_PANEL),
]
Concurrency = Annotated[
    int, typer.Option("--concurrency", min=1, help="Photos that are under way at once.", rich_help_panel=_PANEL)
]
