-- Accounts whose cached balance is not the sum of their lines, and transfers that are not two lines adding up to
-- zero. Answers nothing.
SELECT a.id FROM accounts a LEFT JOIN entries e ON e.account_id = a.id
GROUP BY a.id, a.balance_micro HAVING coalesce(sum(e.amount_micro), 0) <> a.balance_micro
UNION ALL
SELECT t.id FROM transfers t LEFT JOIN entries e ON e.transfer_id = t.id
GROUP BY t.id HAVING count(e.account_id) <> 2 OR sum(e.amount_micro) <> 0
