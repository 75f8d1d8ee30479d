"""Where the public data sets are published, and their checksums where these are known beforehand.

GroupLens publishes an MD5 beside each archive. Files at a commit of a GitHub repository never change, so their SHA-256
stands here. McAuley's lab publishes no checksums.
"""

import dataclasses

GROUPLENS = "https://files.grouplens.org/datasets/movielens"
AMAZON_14 = "http://snap.stanford.edu/data/amazon/productGraph/categoryFiles"
AMAZON_18 = "https://mcauleylab.ucsd.edu/public_datasets/data/amazon_v2"
S3REC = "https://raw.githubusercontent.com/RUCAIBox/CIKM2020-S3Rec/2a81540ae18615d88ef88227b0c066e5b74781e5/data"
CDRIB = (
    "https://raw.githubusercontent.com/cjx96/CDRIB/bd9894565ce06e9ab187f8a52ba03919aaee5e13/dataset"
)

MOVIELENS_LICENCE = "GroupLens: research use, cite Harper and Konstan 2015, no redistribution"
AMAZON_LICENCE = "McAuley lab: academic research, cite McAuley et al. 2015 or Ni et al. 2019"


@dataclasses.dataclass(frozen=True)
class PublicFile:
    """One file of a host: its address, its path inside the set's folder ("" to unpack an archive there), its sums."""

    url: str
    to: str = ""
    sha256: str = ""
    md5_url: str = ""
    unpack: bool = False


@dataclasses.dataclass(frozen=True)
class PublicSet:
    """What a set is, on which terms, and of which files."""

    about: str
    licence: str
    files: tuple[PublicFile, ...]


def _movielens(name: str, about: str, sha256: str = "") -> PublicSet:
    url = f"{GROUPLENS}/{name}.zip"
    file = PublicFile(url, sha256=sha256, md5_url=f"{url}.md5", unpack=True)
    return PublicSet(about, MOVIELENS_LICENCE, (file,))


def _s3rec(stem: str, sequences: str, attributes: str) -> PublicSet:
    files = (
        PublicFile(f"{S3REC}/{stem}.txt", "sequences.txt", sequences),
        PublicFile(
            f"{S3REC}/{stem}_item2attributes.json", "s3rec_item2attributes.json", attributes
        ),
    )
    about = f"{stem.replace('_', ' ')}, 5-core sequences as S3-Rec published them"
    return PublicSet(about, AMAZON_LICENCE, files)


def _cdrib(one: str, other: str, sums: tuple[str, ...]) -> PublicSet:
    folders = (f"{one}_{other}", f"{other}_{one}")
    names = [f"{folder}/{part}.txt" for folder in folders for part in ("train", "valid", "test")]
    names += [f"{a}/{b}_data_info.txt" for a, b in (folders, folders[::-1])]
    files = tuple(
        PublicFile(f"{CDRIB}/{name}", name, sha256)
        for name, sha256 in zip(names, sums, strict=True)
    )
    return PublicSet(f"{one} and {other}, cold in one and warm in the other", AMAZON_LICENCE, files)


def _reviews_14(category: str) -> PublicSet:
    names = (f"reviews_{category}_5.json.gz", f"meta_{category}.json.gz")
    files = tuple(PublicFile(f"{AMAZON_14}/{name}", name) for name in names)
    return PublicSet(f"Amazon 2014, {category}: 5-core reviews and metadata", AMAZON_LICENCE, files)


def _ratings_14(category: str) -> PublicSet:
    name = f"ratings_{category}.csv"
    file = PublicFile(f"{AMAZON_14}/{name}", name)
    return PublicSet(f"Amazon 2014, {category}: all ratings", AMAZON_LICENCE, (file,))


def _reviews_18(category: str) -> PublicSet:
    reviews, meta = f"{category}_5.json.gz", f"meta_{category}.json.gz"
    files = (
        PublicFile(f"{AMAZON_18}/categoryFilesSmall/{reviews}", reviews),
        PublicFile(f"{AMAZON_18}/metaFiles2/{meta}", meta),
    )
    return PublicSet(f"Amazon 2018, {category}: 5-core reviews and metadata", AMAZON_LICENCE, files)


def _ratings_18(category: str) -> PublicSet:
    name = f"{category}.csv"
    file = PublicFile(f"{AMAZON_18}/categoryFilesSmall/{name}", name)
    return PublicSet(f"Amazon 2018, {category}: all ratings", AMAZON_LICENCE, (file,))


CATEGORIES_14 = (
    "Amazon_Instant_Video Apps_for_Android Automotive Baby Beauty Books CDs_and_Vinyl Cell_Phones_and_Accessories "
    "Clothing_Shoes_and_Jewelry Digital_Music Electronics Grocery_and_Gourmet_Food Health_and_Personal_Care "
    "Home_and_Kitchen Kindle_Store Movies_and_TV Musical_Instruments Office_Products Patio_Lawn_and_Garden "
    "Pet_Supplies Sports_and_Outdoors Tools_and_Home_Improvement Toys_and_Games Video_Games"
).split()
CATEGORIES_18 = (
    "AMAZON_FASHION All_Beauty Appliances Arts_Crafts_and_Sewing Automotive Books CDs_and_Vinyl "
    "Cell_Phones_and_Accessories Clothing_Shoes_and_Jewelry Digital_Music Electronics "
    "Gift_Cards Grocery_and_Gourmet_Food Home_and_Kitchen Industrial_and_Scientific "
    "Kindle_Store Luxury_Beauty Magazine_Subscriptions Movies_and_TV Musical_Instruments "
    "Office_Products Patio_Lawn_and_Garden Pet_Supplies Prime_Pantry Software "
    "Sports_and_Outdoors Tools_and_Home_Improvement Toys_and_Games Video_Games"
).split()

SETS: dict[str, PublicSet] = {
    "ml-100k": _movielens(
        "ml-100k",
        "MovieLens 100K",
        "50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229",
    ),
    "ml-1m": _movielens(
        "ml-1m",
        "MovieLens 1M",
        "a6898adb50b9ca05aa231689da44c217cb524e7ebd39d264c56e2832f2c54e20",
    ),
    "ml-10m": _movielens("ml-10m", "MovieLens 10M"),
    "ml-20m": _movielens("ml-20m", "MovieLens 20M"),
    "ml-latest-small": _movielens("ml-latest-small", "MovieLens latest, small"),
    "amazon14-beauty": _s3rec(
        "Beauty",
        "226cce9c3105299ca0db9615d7d3fb32b3175e90da43100ae352599f0f0107b8",
        "129e40f67486f6877eff0f5318cfa8530ee8ac23d8b0d1de04e1bb7a2ba0b2d4",
    ),
    "amazon14-sports": _s3rec(
        "Sports_and_Outdoors",
        "2a095e0648872beb9982408958290f5d655db5be2911c3756b5446de9f0b8de2",
        "7fb10733ac4f1811384a52144cdefa7fcc7536fa80a7232c5da9bd789155c34b",
    ),
    "amazon14-toys": _s3rec(
        "Toys_and_Games",
        "176c680c688d497598c4a89a03b402c0fe78d795e5db335c2e78dd5f2d778a3f",
        "d371acd25101eedac04afc727626464b7acec770c4eda708705d51eb76eb1ad0",
    ),
    "cdrib-game_video": _cdrib(
        "game",
        "video",
        (
            "758f443fde7211f7253d22999d4c94eb6a07ba10661d38ef3a72a5c78c70105f",
            "e6dace5c64d53c0df3b09ed606a530b22d5147da068c0ae4e5bf8f805381a973",
            "b61703adcb7c9b0a8e4b61c865b650aee05b84fba7e15d690f0b50df3aa85bdc",
            "fcba16c5d28a052ae4251d5db055397fac34cb9a6bba36506d195982aacae887",
            "2da785b3a1e7e1dbb4c0fcc35e47ea8654b7c4dbd4313f808da2a4e346cde812",
            "ba2cb882b8369635a2d72703f4ccbd961475064479c8727ef7cc3d973e800abd",
            "e64145d11fd9feeb07e6314da7974e76187df31ab96d0e31956ddd37f719a9e9",
            "70d943ac685b893cb4382dfe947582cd9db898837cb9f54786baecc973159a53",
        ),
    ),
    "cdrib-sport_cloth": _cdrib(
        "sport",
        "cloth",
        (
            "9c85ed3ce03c67d97cbf5f7789c70d74e47187d7ec0c5d220943f7ed4a92a4fc",
            "a7a61b75096decef81dc5e59efee15bf5af748ba123ddb22d373fc71ae4537df",
            "6f15fea0aa3ec02e4609aa4245ac7a4c6ea3c5e30d662ed1155698ab606e2582",
            "12885bf488ae0e3ef11c4dbc518f4bcc82dcccca799ae0506a21a4ce1ccff0c2",
            "f53c435ca8ec036048adcdf495e109dd7fc5f0917d1efdc29f4817f86a3f8fee",
            "4980e2e43f9523f9f4633e36e7c84b84caa0d09324f7c768d4985425a2832077",
            "6bfd0e4bc40fb8ecd882aca516f8d2fb13f3dfa90f7161d7f0d87e9290dea84f",
            "be7a1fb1075abaeaee4521e6eb663260a1dfd6bbbaf4a9cfd3e514485539c96f",
        ),
    ),
    **{f"amazon14-reviews-{name}": _reviews_14(name) for name in CATEGORIES_14},
    **{f"amazon14-ratings-{name}": _ratings_14(name) for name in CATEGORIES_14},
    **{f"amazon18-reviews-{name}": _reviews_18(name) for name in CATEGORIES_18},
    **{f"amazon18-ratings-{name}": _ratings_18(name) for name in CATEGORIES_18},
}
