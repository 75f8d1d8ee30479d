"""Amazon Beauty, full ranking: generative, decoder-only (nested form), on RQ-VAE ids of MiniLM text vectors.

    python -m eval.recommend configs/recommend/beauty_generative.py --seeds 0

All places of packed histories at once, one causal trunk over items and a small MLP a code; 50 beams in the trie. The
ids are made by the first seed (some four minutes on two cores, most of it MiniLM's) and shared. Then 60 epochs of
7 seconds on two idle cores. Seed 0: R@10 .0544, N@10 .0299, with first settings; one seed was run.
"""

from jaxrec.data.interaction_sets import DataConfig
from jaxrec.eval.recommend_ranking import RankingConfig
from jaxrec.models.items.code_layers import LayersConfig
from jaxrec.models.items.generative_rec import CodeDecoderConfig
from jaxrec.recommenders.generative_rec import GenerativeRecConfig
from jaxrec.training.loop import LoopConfig
from jaxrec.training.optimizer import OptConfig

config = RankingConfig(
    name="beauty_generative",
    model="generative, decoder-only, RQ-VAE ids",
    data=DataConfig("amazon14-beauty"),
    recommender=GenerativeRecConfig(
        ids_folder="runs/beauty_semantic_id",
        texts=DataConfig("amazon14-beauty"),
        model=CodeDecoderConfig(
            form="nested",
            layers=LayersConfig(d_model=128, layers=3, heads=4, head_dim=32, d_ff=512, dropout=0.3),
            d_depth=256,
            input_dropout=0.3,
        ),
        max_length=20,
        width=20,
        rows=64,
        smoothing=0.1,
        epochs=60,
        evaluate_every=3,
        sample=5000,
        opt=OptConfig(lr=2e-3, warmup=100, weight_decay=0.01, b2=0.98),
        loop=LoopConfig(monitor="N@10", mode="max", patience=5, log_every=200),
    ),
    seeds=(0, 1, 2),
    bar="R@10 .050, goal .0655",
    peer="re-implementations .056-.059, GRID .0655, TIGER's paper .0648",
)
