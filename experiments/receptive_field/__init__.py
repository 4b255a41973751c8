"""How far back does a layer see? Fields declared, shown and effective."""
