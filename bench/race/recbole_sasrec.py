"""RecBole's own SASRec and trainer over Beauty: a sample for every prefix, padded to 50, cross-entropy.

An epoch takes minutes, so a few of its steps stand for it: all are alike, as every batch has the same shape.
"""

import itertools
import os
import tempfile
from pathlib import Path

from bench.race import beauty, shape
from bench.race.worker import Work


def prepare(batch: int = 2048, steps: int = 3) -> dict[str, Work]:
    """`steps` of an epoch by `Trainer._train_epoch`, as RecBole runs it."""
    import recbole
    import torch
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.model.sequential_recommender import SASRec
    from recbole.trainer import Trainer
    from recbole.utils import init_seed

    scratch = shape.CACHE / "recbole"  # its logs go where the process stands
    scratch.mkdir(parents=True, exist_ok=True)
    os.chdir(scratch)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "0")) or torch.get_num_threads())
    with tempfile.TemporaryDirectory() as folder:
        write_atomic(Path(folder) / "beauty")
        config = Config(
            model="SASRec",
            dataset="beauty",
            config_dict={
                "data_path": folder,
                "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
                "MAX_ITEM_LIST_LENGTH": beauty.LENGTH,
                "hidden_size": beauty.WIDTH,
                "n_layers": beauty.LAYERS,
                "n_heads": beauty.HEADS,
                "inner_size": beauty.INNER,
                "hidden_dropout_prob": beauty.DROPOUT,
                "attn_dropout_prob": beauty.DROPOUT,
                "learning_rate": beauty.RATE,
                "train_batch_size": batch,
                "train_neg_sample_args": None,
                "loss_type": "CE",
                "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "full"},
                "use_gpu": False,
                "show_progress": False,
                "state": "ERROR",
                "checkpoint_dir": folder,
            },
        )
        init_seed(0, True)
        dataset = create_dataset(config)
        train, _, _ = data_preparation(config, dataset)
    model = SASRec(config, train.dataset)
    trainer = Trainer(config, model)
    losses: list[float] = []

    whole = len(train)
    few = Few(train, steps)

    def part() -> None:
        losses.append(trainer._train_epoch(few, len(losses)) / steps)

    versions = {"recbole": recbole.__version__, "torch (RecBole's)": torch.__version__}
    return {"work": Work(part, None, versions, {"nats": losses}, share=steps / whole)}


class Few:
    """A loader's first batches, afresh each time."""

    def __init__(self, loader, count: int):
        self.loader, self.count = loader, count

    def __len__(self) -> int:
        return self.count

    def __iter__(self):
        return itertools.islice(iter(self.loader), self.count)

    def __getattr__(self, name: str):
        return getattr(self.loader, name)


def write_atomic(folder: Path) -> None:
    """Beauty as an atomic file; the place in a history stands for the time."""
    folder.mkdir()
    with (folder / f"{folder.name}.inter").open("w") as file:
        file.write("user_id:token\titem_id:token\ttimestamp:float\n")
        for user, items in enumerate(beauty.sequences()):
            file.writelines(f"{user}\t{item}\t{place}\n" for place, item in enumerate(items))
