interface Greeting {
  who: string;
  times: number;
}
export function greet(greeting: Greeting): string {
  return `hello ${greeting.who} x${greeting.times}`;
}
