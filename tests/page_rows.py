"""The tables of a report, read back."""

from bs4 import BeautifulSoup


def read_rows(text: str) -> list[dict[str, str]]:
    """Every row of every sortable table: its exact values by column."""
    rows = []
    for table in BeautifulSoup(text, "html.parser").select("table.sortable"):
        names = [head.text for head in table.select("th")]
        for row in table.select("tbody tr"):
            rows.append(dict(zip(names, [cell["data-value"] for cell in row.select("td")], strict=True)))
    return rows
