"""The peers' sentence encoders on MiniLM or MPNet: sentence-transformers, and the same weights under ONNX runtime."""

import os
from typing import Any

from bench.race import shape
from bench.race.worker import Work

LONGEST = {"minilm": 256, "mpnet": 384}  # tokens, as the published models are configured


def prepare(
    engine: str = "sentence-transformers", count: int = 512, model: str = "minilm"
) -> dict[str, Work]:
    """engine: "sentence-transformers" or "onnxruntime"."""
    make = {"sentence-transformers": _sentence_transformers, "onnxruntime": _onnx}[engine]
    encode, versions = make(list(shape.texts(count)), model)
    return {"work": Work(encode, encode, versions)}


def _sentence_transformers(texts: list[str], name: str) -> tuple[Any, dict]:
    import sentence_transformers
    import torch

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "0")) or torch.get_num_threads())
    model = sentence_transformers.SentenceTransformer(str(shape.encoder_folder(name)), device="cpu")
    model.max_seq_length = LONGEST[name]
    versions = {
        "torch": torch.__version__,
        "sentence-transformers": sentence_transformers.__version__,
    }
    return (
        lambda: model.encode(
            texts, batch_size=32, normalize_embeddings=True, show_progress_bar=False
        ),
        versions,
    )


def _onnx(texts: list[str], name: str) -> tuple[Any, dict]:
    import numpy as np
    import onnxruntime
    from tokenizers import Tokenizer

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS", "0"))
    session = onnxruntime.InferenceSession(
        str(_exported(name)), options, providers=["CPUExecutionProvider"]
    )
    tokenizer = Tokenizer.from_file(str(shape.encoder_folder(name) / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(LONGEST[name])

    width = session.get_outputs()[0].shape[-1]

    def encode() -> np.ndarray:
        tokens = [e.ids for e in tokenizer.encode_batch(texts)]
        order = sorted(range(len(texts)), key=lambda i: -len(tokens[i]))
        out = np.zeros((len(texts), width), np.float32)
        for start in range(0, len(order), 32):
            rows = order[start : start + 32]
            ids = np.zeros((len(rows), len(tokens[rows[0]])), np.int64)
            mask = np.zeros_like(ids)
            for r, i in enumerate(rows):
                ids[r, : len(tokens[i])], mask[r, : len(tokens[i])] = tokens[i], 1
            hidden = session.run(None, {"input_ids": ids, "attention_mask": mask})[0]
            mean = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
            out[rows] = mean / np.linalg.norm(mean, axis=1, keepdims=True)
        return out

    return encode, {"onnxruntime": onnxruntime.__version__}


def _exported(name: str) -> Any:
    """The model as an ONNX file, made at the first call."""
    path = shape.CACHE / f"{name}.onnx"
    if path.exists():
        return path
    import torch
    from transformers import AutoModel

    model = AutoModel.from_pretrained(
        shape.encoder_folder(name), attn_implementation="eager"
    ).eval()

    class Hidden(torch.nn.Module):
        """Only the last hidden state, which is what a sentence vector is made of."""

        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            return self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state

    sample = torch.ones(2, 12, dtype=torch.long)
    axes = {0: "batch", 1: "length"}
    path.parent.mkdir(parents=True, exist_ok=True)
    building = path.with_suffix(".building")
    torch.onnx.export(
        Hidden(),
        (sample, sample),
        str(building),
        input_names=["input_ids", "attention_mask"],
        output_names=["hidden"],
        dynamic_axes={"input_ids": axes, "attention_mask": axes, "hidden": axes},
        opset_version=17,
        dynamo=False,
    )
    building.replace(path)
    return path
