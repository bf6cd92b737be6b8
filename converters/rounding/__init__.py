"""Better rounding on the grids that the formats really have: codes that make up for each other's
errors, then block scales and norm gains that are distilled from the unquantised model."""
