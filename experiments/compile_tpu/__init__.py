"""Will it start on a TPU? Programs for chips that are not here."""
