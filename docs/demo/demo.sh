#!/bin/sh
# What `make demo` runs: preprocess, train, evaluate, and a conversation in English and one in Chinese in which something is
# told, asked, told otherwise, asked again after a restart, and forgotten. It checks every answer, and searches the file for
# what was forgotten; it ends with 1 where anything is wrong.
#   sh docs/demo/demo.sh MEMGPT [RUN [SETTING...]]
set -eu
memgpt=$1 run=${2:-demo}
[ $# -gt 2 ] && shift 2 || shift $#
here=$(dirname "$0") folder=runs/$run
say() { printf '\n$ memgpt %s\n' "$*"; }

say preprocess experiment=demo
"$memgpt" preprocess experiment=demo
say "train experiment=demo   (some of the companion's relations; plain 'memgpt train' is the full training)"
"$memgpt" train experiment=demo "run=$run" "$@"
say "eval --run $run   (lives that training never held; + marks wordings that it never held either)"
"$memgpt" eval --run "$run"
rm -f "$folder"/memory.sqlite*
talk() {
  say "chat --run $run --namespace ${1%-*}"
  "$memgpt" chat --run "$run" --store "$folder/memory.sqlite" --namespace "${1%-*}" < "$here/$1.txt" 2>&1 | tee "$folder/$1.txt"
}
for part in english-1 english-2 chinese-1 chinese-2; do talk $part; done

wrong=0
# check FILE QUESTION N WORDS: whether the Nth answer to the question holds the words
check() {
  answer=$(awk -v q="you> $2" -v n="$3" '$0 == q && ++k == n { getline; print; exit }' "$folder/$1.txt")
  case "$answer" in
    *"$4"*) ;;
    *) wrong=$((wrong + 1)); printf 'expected "%s" in the answer to "%s", found: %s\n' "$4" "$2" "$answer" ;;
  esac
}
echo
check english-1 'What is my cat called?' 1 Biscuit
check english-1 'Which city do I live in?' 1 Bamberg
check english-1 'What is my wifi password?' 1 'not told me'
check english-1 'What is my cat called?' 2 Pepper
check english-2 'What is my cat called?' 1 Pepper
check english-2 'What is my cat called?' 2 'not told me'
check english-2 'Which city do I live in?' 1 Bamberg
check chinese-1 '我的猫叫什么？' 1 年糕
check chinese-1 '我住在哪个城市？' 1 第比利斯
check chinese-1 '我家的WiFi密码是多少？' 1 没告诉
check chinese-1 '我的猫叫什么？' 2 豆沙
check chinese-2 '我的猫叫什么？' 1 豆沙
check chinese-2 '我的猫叫什么？' 2 没告诉
check chinese-2 '我住在哪个城市？' 1 第比利斯
for word in Biscuit Pepper 年糕 豆沙; do
  if LC_ALL=C grep -aq "$word" "$folder"/memory.sqlite*; then wrong=$((wrong + 1)); echo "the file still holds $word"; fi
done
if [ "$wrong" -gt 0 ]; then
  echo "$wrong of 18 checks went wrong (see above): this training was too short here. The full one is 'memgpt train'."
  exit 1
fi
echo "All 14 answers are right, and no byte of Biscuit, Pepper, 年糕 or 豆沙 is left in $folder/memory.sqlite."

cat <<END

Go on with
  memgpt chat --run $run                   talk with it yourself; /help lists what it can do
  memgpt train                            the full training, then: memgpt eval
  memgpt train experiment=restaurant      book a table over a knowledge base, then: memgpt chat --run restaurant
  memgpt preprocess --help                your own data
END
