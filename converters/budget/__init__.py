"""From a budget to a type for each tensor: what each type costs, what it loses, which to take."""
