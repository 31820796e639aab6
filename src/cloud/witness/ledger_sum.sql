-- Every transfer is two lines that cancel out, so all lines add up to zero.
SELECT coalesce(sum(amount_micro), 0) FROM entries
