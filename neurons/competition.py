"""Which competition a command runs under when nobody says: the real one where a GPU is found, the demo's elsewhere."""

from pathlib import Path

from services.evaluator.gpu import list_gpus
from shared import hparams
from shared.hparams import Hparams

HPARAMS = Path(__file__).parents[1] / "hparams"


def choose(chosen: Path | None) -> tuple[Path, Hparams, str]:
    """The file, what it says, and a sentence about it.

    Raises:
        HparamsError: the file cannot be used.
    """
    if chosen is not None:
        parameters = hparams.load(chosen)
        return chosen, parameters, f"hparams {parameters.name} from {chosen}"
    gpus = list_gpus()
    path = HPARAMS / ("hparams.json" if gpus else "demo.json")
    parameters = hparams.load(path)
    found = f"{gpus[0][1]} found" if gpus else "no GPU found, so speeds say nothing about the real tournament"
    return path, parameters, f"hparams {parameters.name}: {found}"
