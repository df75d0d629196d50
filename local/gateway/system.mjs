// Prints the SQL of the auth and storage schemas that the gateway package expects.
import { getAuthSchemaSql, getStorageSchemaSql } from "@supabase/lite";

process.stdout.write(`${getAuthSchemaSql()}\n${getStorageSchemaSql()}\n`);
