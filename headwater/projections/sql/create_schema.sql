-- The home of one version of a projection; its name is a checked identifier, for CREATE SCHEMA takes no parameters.
CREATE SCHEMA {schema}
