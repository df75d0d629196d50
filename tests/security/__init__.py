"""Who may do what: a matrix made from the catalog, and the attacks on money and tenancy."""
