"""An output format for ``profile`` and ``check``: comma-separated values."""

import csv
import io

from mcuprune.report import profile as report


def table(answers: report.Report) -> str:
    """One line for each node of each model, in base units."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["model", "node", "op", "macs", "flash"])
    for answer in answers.answers:
        if isinstance(answer, report.Answer):  # a model that was refused has no profile
            for layer in answer.profile.layers:
                writer.writerow([answer.profile.path, layer.node, layer.op, layer.macs, layer.flash])
    return out.getvalue()


# One row: --format csv, and --format csv=FILE.
report.FORMATS["csv"] = table

if __name__ == "__main__":
    from mcuprune.cli import main  # after the row: the help names the formats that there are when this is imported

    assert main(["profile", "models/resnet8_digits.onnx", "--format", "csv=layers.csv"]) == 0
    with open("layers.csv") as file:
        rows = list(csv.DictReader(file))
    assert sum(int(row["macs"]) for row in rows) > 3_000_000
