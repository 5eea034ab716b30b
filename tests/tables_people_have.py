"""Tables of galaxies as people have them: small, seeded, of our own making.

``galaxies`` is the table; ``WRITERS`` writes it into each container that is read. What is read back
is always what ``plain.csv`` gives.
"""

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

CLASSES = ("round", "disk", "NA", "None")  # names that are also words for a missing number
VOTES = ("smooth_yes", "smooth_no")


def galaxies(num_galaxies: int = 12, seed: int = 0) -> pd.DataFrame:
    """Galaxies with long ids, one with leading zeros; votes, a class, a number."""
    rng = np.random.default_rng(seed)
    ids = [f"0{587739505552785600 + i}" if i == 1 else f"{587739505552785600 + i}"
           for i in range(num_galaxies)]  # fmt: skip
    smooth = rng.integers(0, 21, num_galaxies)
    return pd.DataFrame(
        {
            "id_str": ids,
            "file_loc": [f"images/g{i}.png" for i in range(num_galaxies)],
            VOTES[0]: smooth,
            VOTES[1]: 20 - smooth,
            "kind": [CLASSES[i % len(CLASSES)] for i in range(num_galaxies)],
            "size": np.round(rng.uniform(0, 2, num_galaxies), 3),
        }
    )


def draw_images(folder: Path, table: pd.DataFrame, size_px: int = 24) -> None:
    """The images of the table's ``file_loc``, as different as their galaxies."""
    rng = np.random.default_rng(1)
    for file_loc in table["file_loc"]:
        path = folder / file_loc
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 255, (size_px, size_px, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)


def _text(table: pd.DataFrame, separator: str = ",", **options) -> str:
    return table.to_csv(sep=separator, index=False, lineterminator="\n", **options)


def _lines(change: Callable[[int, str], str], separator: str = ",") -> Callable:
    """A writer that changes each line, by its number."""

    def write(table: pd.DataFrame, path: Path) -> None:
        lines = _text(table, separator).splitlines()
        path.write_text("".join(f"{change(i, line)}\n" for i, line in enumerate(lines)))

    return write


def _bytes(encode: Callable[[str], bytes], separator: str = ",", **options) -> Callable:
    return lambda table, path: path.write_bytes(encode(_text(table, separator, **options)))


def _astropy(table_format: str, packed: bool = False, upper: bool = False) -> Callable:
    def write(table: pd.DataFrame, path: Path) -> None:
        from astropy.table import Table

        table = table.rename(columns=str.upper) if upper else table
        table = table.astype({name: object for name in table.columns if table[name].dtype == "str"})
        aside = path.with_name("aside." + table_format.replace("ascii.", ""))
        Table.from_pandas(table).write(aside, format=table_format, overwrite=True)
        path.write_bytes(gzip.compress(aside.read_bytes()) if packed else aside.read_bytes())

    return write


def _vizier(table: pd.DataFrame, path: Path) -> None:
    """Comments, the header, units and a drawn line, as VizieR writes them."""
    rows = _text(table, "\t").splitlines()
    drawn = "\t".join("-" * len(name) for name in table.columns)
    path.write_text("\n".join(["#Name: a/b", "#", rows[0], "\t\t\t\t\tkpc", drawn, *rows[1:], ""]))


def _psql(table: pd.DataFrame, path: Path) -> None:
    rows = [" " + line.replace("|", " | ") for line in _text(table, "|").splitlines()]
    path.write_text("\n".join([rows[0], "----+-----", *rows[1:], f"({len(table)} rows)", ""]))


def _box(table: pd.DataFrame, path: Path) -> None:
    """As mysql, or TOPCAT's format text."""
    rows = ["| " + line.replace("|", " | ") + " |" for line in _text(table, "|").splitlines()]
    drawn = "+" + "----+" * table.shape[1]
    path.write_text("\n".join([drawn, rows[0], drawn, *rows[1:], drawn, ""]))


def _rest(table: pd.DataFrame, path: Path) -> None:
    """As astropy's format ascii.rst."""
    rows = _text(table, " ").splitlines()
    drawn = " ".join("=" * len(name) for name in table.columns)
    path.write_text("\n".join([drawn, rows[0], drawn, *rows[1:], drawn, ""]))


def _tables_of_fits(table: pd.DataFrame, path: Path) -> None:
    """A table of other things before the catalog."""
    from astropy.io import fits
    from astropy.table import Table

    table = table.astype({name: object for name in table.columns if table[name].dtype == "str"})
    hdus = [fits.table_to_hdu(x) for x in (Table({"obs": [1, 2]}), Table.from_pandas(table))]
    fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(path)


def _tables_of_votable(table: pd.DataFrame, path: Path) -> None:
    from astropy.io.votable import from_table
    from astropy.table import Table

    table = table.astype({name: object for name in table.columns if table[name].dtype == "str"})
    file = from_table(Table({"obs": [1, 2]}))
    catalog = from_table(Table.from_pandas(table)).get_first_table()
    file.resources[0].tables.append(catalog)
    file.to_xml(str(path))


def _types(types: dict) -> Callable:
    return lambda table, path: table.astype(types).to_parquet(path, index=False)


def _padded(table: pd.DataFrame, path: Path) -> None:
    """Texts with spaces at their ends, as databases with CHAR columns write them."""
    texts = {name: table[name].str.ljust(30) for name in ("id_str", "file_loc")}
    table.assign(**texts).to_parquet(path, index=False)


def _decimals(table: pd.DataFrame, path: Path) -> None:
    arrow = pa.Table.from_pandas(table, preserve_index=False)
    for i in (2, 3):
        column = arrow.column(i).cast(pa.decimal128(30, 2))
        arrow = arrow.set_column(i, arrow.schema.names[i], column)
    pq.write_table(arrow, path)


def _parts(table: pd.DataFrame, folder: Path) -> None:
    folder.mkdir()
    half = len(table) // 2
    for i, part in enumerate((table[:half], table[half:])):
        part.to_parquet(folder / f"galaxies-{i:05d}-of-00002.parquet", index=False)


def _hugging_face(table: pd.DataFrame, path: Path) -> None:
    """A column ``image`` of dicts with a path and no bytes."""
    image = [{"bytes": None, "path": file_loc} for file_loc in table["file_loc"]]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    arrow = pa.Table.from_pandas(table.drop(columns="file_loc"), preserve_index=False)
    pq.write_table(arrow.append_column("image", pa.array(image, kind)), path)


def _parquet(**options) -> Callable:
    return lambda table, path: table.to_parquet(path, **options)


def _indexed(*keys: str) -> Callable:
    return lambda table, path: table.set_index([*keys]).to_parquet(path)


def _with_index(make: Callable[[pd.DataFrame], pd.Index]) -> Callable:
    return lambda table, path: table.set_index(make(table)).to_parquet(path)


def _renamed(write: Callable, rename: Callable | dict) -> Callable:
    return lambda table, path: write(table.rename(columns=rename), path)


WRITERS: dict[str, Callable[[pd.DataFrame, Path], None]] = {
    "plain.csv": _bytes(str.encode),
    "CAPITALS.CSV": _renamed(_bytes(str.encode), str.upper),
    "packed.csv.gz": _bytes(lambda text: gzip.compress(text.encode())),
    "unpacked.csv.gz": _bytes(str.encode),
    "tabs.tsv": _bytes(str.encode, "\t"),
    "tabs.txt": _bytes(str.encode, "\t"),
    "semicolons.csv": _bytes(str.encode, ";"),
    "decimal_comma.csv": _bytes(str.encode, ";", decimal=","),
    "bars.txt": _bytes(str.encode, "|"),
    "spaces.txt": _bytes(str.encode, " "),
    "spreadsheet_mark.csv": _bytes(lambda text: b"sep=;\r\n" + text.encode(), ";"),
    "mark.csv": _bytes(lambda text: text.encode("utf-8-sig")),
    "utf16.csv": _bytes(lambda text: text.encode("utf-16")),
    "utf16_tabs.txt": _bytes(lambda text: text.encode("utf-16"), "\t"),
    "utf16_unmarked.csv": _bytes(lambda text: text.encode("utf-16-le")),
    "windows.csv": _bytes(lambda text: text.replace("\n", "\r\n").encode()),
    "title.csv": _bytes(lambda text: b"#Table1\n" + text.encode()),
    "comments.csv": _bytes(lambda text: b"# made by hand\n#\n\n" + text.encode()),
    "commented_header.txt": _bytes(lambda text: b"# " + text.encode(), " "),
    "commas_at_the_end.csv": _lines(lambda i, line: line + ","),
    "commas_at_the_end_of_rows.csv": _lines(lambda i, line: line + "," * (i > 0)),
    "two_commas_at_the_end.csv": _lines(lambda i, line: line + "," * (2 * (i > 0))),
    "header_with_spaces.csv": _lines(lambda i, line: line if i else line.replace(",", " , ")),
    "spaces_after_commas.csv": _lines(lambda i, line: line.replace(",", ", ")),
    "empty_rows.csv": _bytes(lambda text: text.encode() + b",,,,,\n" * 2),
    "vizier.tsv": _vizier,
    "psql.txt": _psql,
    "box.txt": _box,
    "rest.txt": _rest,
    "utf32.csv": _bytes(lambda text: text.encode("utf-32")),
    "quoted.csv": _bytes(str.encode, quoting=1),
    "quoted_spaces.txt": _bytes(str.encode, " ", quoting=1),
    "plain.parquet": _parquet(index=False),
    "index.parquet": _indexed("id_str"),
    "multi_index.parquet": _indexed("kind", "id_str"),
    "unnamed_index.parquet": _with_index(lambda table: pd.Index([*table["kind"]])),
    "shifted_index.parquet": _with_index(lambda table: pd.RangeIndex(5, 5 + len(table))),
    "numbers_as_text.parquet": _types({name: str for name in (*VOTES, "size")}),
    "categories.parquet": _types({VOTES[0]: str} | {n: "category" for n in (*VOTES, "kind")}),
    "nullable.parquet": _types({VOTES[0]: "Int64", VOTES[1]: "UInt8", "id_str": "string"}),
    "padded.parquet": _padded,
    "decimals.parquet": _decimals,
    "bytes.parquet": lambda table, path: table.assign(
        kind=table["kind"].str.encode("utf-8")
    ).to_parquet(path),
    "parquet.csv": _parquet(index=False),
    "csv.parquet": _bytes(str.encode),
    "csv.fits": _bytes(str.encode),
    "gzip.csv": _bytes(lambda text: gzip.compress(text.encode())),
    "no_suffix": _bytes(str.encode),
    "Capitals.parquet": _renamed(_parquet(index=False), str.capitalize),
    "folder": _parts,
    "hugging_face.parquet": _hugging_face,
    "paths_as_image.csv": _renamed(_bytes(str.encode), {"file_loc": "image"}),
    "binary.fits": _astropy("fits"),
    "capitals.fit": _astropy("fits", upper=True),
    "packed.fits.gz": _astropy("fits", packed=True),
    "fits.csv": _astropy("fits"),
    "gzip.fits": _astropy("fits", packed=True),
    "votable.csv": _astropy("votable"),
    "two_tables.fits": _tables_of_fits,
    "two_tables.vot": _tables_of_votable,
    "lines.ecsv": _astropy("ascii.ecsv"),
    "packed.ecsv.gz": _astropy("ascii.ecsv", packed=True),
    "ecsv.txt": _astropy("ascii.ecsv"),
    "votable.xml": _astropy("votable"),
    "votable.vot": _astropy("votable"),
    "votable.vot.gz": _astropy("votable", packed=True),
}


def write_all(folder: Path, table: pd.DataFrame) -> list[Path]:
    """The table in every container."""
    for name, write in WRITERS.items():
        write(table, folder / name)
    return [folder / name for name in WRITERS]
