"""Facts about machines: profiles in TOML and what can be detected here."""
